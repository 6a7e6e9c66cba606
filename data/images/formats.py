"""Formats of pictures that are not read, known by a file's first bytes or by its name.

Such a file is an image that cannot be read: it is quarantined with the remedy and counted. Were it
passed over as a README is, most of a set could be lost without a word, as when a phone saved HEIC.

This holds for formats of which a file is a picture: photograph, scan, drawing, texture, slice. It
ends at documents (PDF), videos, and arrays of numbers (.npy, .mat, .h5), which often lie beside the
images as something else. Those are passed over, and counted as what is not an image.

Pillow could read some (AVIF, JPEG 2000, PSD, EPS): each more is a parser that hostile files reach,
and one whose pixels may change with its version.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

from data.store.quarantine import NOT_READ

# Enough for a DICOM's and a NIfTI's mark, for the brands of a HEIC, and for an SVG's first lines.
START_BYTES = 1024


class Unread(NamedTuple):
    """A format, or formats with one remedy."""

    what: str
    remedy: str
    endings: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why an image is left out; the remedy stands behind the colon."""
        return f"{self.what}, {NOT_READ}: {self.remedy}"


_CONVERT = "convert it to PNG or JPEG, for example with ImageMagick (`magick FILE FILE.png`)"
_DEVELOP = "develop it to TIFF, PNG or JPEG, for example with darktable-cli or RawTherapee"
_SLICES = "save each slice as PNG or TIFF, scaled to the range that matters"


def _picture(what: str, *endings: str) -> Unread:
    return Unread(what, _CONVERT, endings)


def _slices(what: str, *endings: str) -> Unread:
    return Unread(what, _SLICES, endings)


HEIC = _picture("a HEIC photo", ".heic", ".heif", ".hif", ".heics", ".heifs", ".avci", ".avcs")
AVIF = _picture("an AVIF image", ".avif", ".avifs")
JPEG_XL = _picture("a JPEG XL image", ".jxl")
JPEG_2000 = _picture(
    "a JPEG 2000 image",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm", ".jph", ".jhc",
)  # fmt: skip
JPEG_XR = _picture("a JPEG XR image", ".jxr", ".wdp", ".hdp")
JPEG_LS = _picture("a JPEG-LS image", ".jls")
RAW = Unread(
    "a camera's raw photo", _DEVELOP,
    (
        ".3fr", ".ari", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr",
        ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef",
        ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    ),
)  # fmt: skip
PHOTOSHOP = _picture("a Photoshop file", ".psd", ".psb")
GIMP = _picture("a GIMP file", ".xcf")
SVG = _picture("an SVG drawing", ".svg", ".svgz")
EPS = _picture("an EPS drawing", ".eps", ".epsf", ".epsi")
WMF = _picture("a WMF or EMF drawing", ".wmf", ".emf")
EXR = _picture("an OpenEXR image", ".exr")
# Not `.hdr`: headers that lie beside other data are called so, too.
RADIANCE = _picture("a Radiance HDR image", ".rgbe")
DDS = _picture("a DDS texture", ".dds")
KTX = _picture("a KTX texture", ".ktx", ".ktx2")
QOI = _picture("a QOI image", ".qoi")
BPG = _picture("a BPG image", ".bpg")
FLIF = _picture("a FLIF image", ".flif")
ICON = _picture("an icon of ICO, CUR or ICNS", ".ico", ".cur", ".icns")
SUN = _picture("a Sun raster image", ".ras")
DICOM = _slices("a DICOM image", ".dcm", ".dicom")
NIFTI = _slices("a NIfTI image", ".nii", ".nii.gz")
NRRD = _slices("an NRRD image", ".nrrd", ".nhdr")
MICROSCOPE = _slices("a microscope's CZI, LIF, ND2 or OIB file", ".czi", ".lif", ".nd2", ".oib")
FITS = _slices("a FITS image", ".fits", ".fts")
FORMATS = (
    HEIC, AVIF, JPEG_XL, JPEG_2000, JPEG_XR, JPEG_LS, RAW, PHOTOSHOP, GIMP, SVG, EPS, WMF, EXR,
    RADIANCE, DDS, KTX, QOI, BPG, FLIF, ICON, SUN, DICOM, NIFTI, NRRD, MICROSCOPE, FITS,
    # Known by their names alone: hardly anything marks what is in them.
    _picture("a Krita or OpenRaster file", ".kra", ".ora"),
    _picture("a Targa image", ".tga", ".targa"),
    _picture("a PCX image", ".pcx", ".dcx"),
    _picture("an SGI image", ".sgi"),
    _picture("an XBM or XPM image", ".xbm", ".xpm"),
    _picture("a PICT image", ".pict", ".pct"),
    _slices("a MetaImage", ".mha", ".mhd"),
)  # fmt: skip

# Offset and mark. A note that begins like this is not an image: where a mark is a mere word,
# what follows it counts, too.
_MARKS = (
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", JPEG_2000),
    (0, b"\xff\x4f\xff\x51", JPEG_2000),
    (0, b"\xff\xd8\xff\xf7", JPEG_LS),
    (0, b"II\xbc\x00", JPEG_XR),
    (0, b"II\xbc\x01", JPEG_XR),
    (8, b"CR\x02", RAW),
    (6, b"HEAPCCDR", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"MMOR", RAW),
    (0, b"IIU\0", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"FOVb", RAW),
    (0, b"\0MRM", RAW),
    (0, b"8BPS", PHOTOSHOP),
    (0, b"gimp xcf", GIMP),
    (0, b"\xc5\xd0\xd3\xc6", EPS),
    (0, b"\xd7\xcd\xc6\x9a", WMF),
    (0, b"\x76\x2f\x31\x01", EXR),
    (0, b"#?RADIANCE", RADIANCE),
    (0, b"#?RGBE", RADIANCE),
    (0, b"DDS \x7c\0\0\0", DDS),
    (0, b"\xabKTX ", KTX),
    (0, b"qoif\0\0", QOI),
    (0, b"BPG\xfb", BPG),
    (0, b"icns\0", ICON),
    (0, b"\x59\xa6\x6a\x95", SUN),
    (128, b"DICM", DICOM),
    (344, b"n+1\0", NIFTI),
    (4, b"n+2\0", NIFTI),
    (0, b"NRRD000", NRRD),
    (0, b"ZISRAWFILE", MICROSCOPE),
    (0, b"SIMPLE  =", FITS),
)
# Brands of ISO's media files: what the file is, or is compatible with.
_BRANDS = (
    (AVIF, {b"avif", b"avis", b"avio"}),
    (RAW, {b"crx "}),
    (
        HEIC,
        {
            b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1",
            b"mif2", b"mif3", b"msf1", b"miaf", b"avci", b"avcs",
        },
    ),
)  # fmt: skip
# Kinds of ISO's media files that are videos, whatever else they are compatible with.
_VIDEOS = {b"qt  ", b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"M4V ", b"avc1"}
# The outermost element: a web page may hold a drawing, too. What may precede it is matched once,
# for good (`*+`): there are 2^n ways to read n comments.
_SVG_START = re.compile(
    rb"(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>|\s)*+<(?:svg:)?svg\b", re.DOTALL
)
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF's tags by which a camera's raw photo is known, and what they say there.
_SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 262, 330, 50706
_SENSOR = (32803, 34892)  # a colour filter's array; linear raw values


def unread_by_name(name: str) -> Unread | None:
    """The format that a file's name stands for, if that is not read."""
    lower = name.lower()
    return next((format for format in FORMATS if lower.endswith(format.endings)), None)


def unread_by_content(content: bytes, name: str = "") -> Unread | None:
    """The format of a file that is not read, or None: it is read, or its format is unknown.

    Args:
        content: All of it, or the first `START_BYTES`: then not every raw photo is known.
        name: Its name. A TIFF of a raw photo's name is one: its first image is but a preview.
    """
    for offset, mark, format in _MARKS:
        if content.startswith(mark, offset):
            return format
    if content[4:8] == b"ftyp":
        return _by_brand(content)
    if is_tiff(content) and (unread_by_name(name) is RAW or _is_raw_tiff(content)):
        return RAW
    start = content[:START_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%!PS-Adobe") and b"EPSF" in start.partition(b"\n")[0]:
        return EPS
    return SVG if _SVG_START.match(start) else None


def is_tiff(start: bytes) -> bool:
    """Whether a file begins like a TIFF, as most raw photos do too."""
    return start.startswith(_TIFFS)


def _by_brand(content: bytes) -> Unread | None:
    major = content[8:12]
    if major in _VIDEOS:
        return None
    end = min(int.from_bytes(content[:4], "big"), START_BYTES)
    brands = {major, *(content[at : at + 4] for at in range(16, end, 4))}
    return next((format for format, known in _BRANDS if brands & known), None)


def _is_raw_tiff(content: bytes) -> bool:
    """Whether its tags are those of a raw photo: its first image is then a preview, if it is one.

    Pillow would give that preview, or call the sensor's values damaged.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(content[: 16 if b"+" in content[2:4] else 8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        preview = bool(int(tags.get(_SUBFILE, 0)) & 1) and _SUB_IFDS in tags
        return preview or _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _SENSOR
    # By what is damaged. Whoever opens it next says so.
    except Exception:
        return False
