"""Why an image is left out, put so that like reasons can be counted together."""

import re

SAME_PIXELS = "has the same pixels, another label"
DUPLICATE = "duplicate of"
# Of a format: what follows behind the colon is the remedy.
NOT_READ = "which is not read"


def kind_of(reason: str) -> str:
    """A reason without the names and figures in it: what stands before a colon or a bracket."""
    if reason.startswith(f"{DUPLICATE} "):
        return "exact duplicate of another image"
    if reason.endswith(SAME_PIXELS):
        return "same pixels as another image, other label"
    return re.sub(r"[:(].*", "", reason).strip()
