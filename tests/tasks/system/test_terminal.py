"""Whatever a terminal can show, and whoever has stopped reading: no message fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3]
ENCODINGS = ("latin-1", "ascii", "cp1252", "cp437", "koi8-r", "utf-16", "utf-8", "ascii:strict")
SAID = "a → b · 3–4 × “x” … é 🙈"
IN_ASCII = 'a -> b - 3-4 x "x" ... \\xe9 \\U0001f648'
# Python's own ways of choosing the encoding, each of which a user may have set.
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SAY = (
    "import sys; from tasks.system.terminal import close_terminal, open_terminal\n"
    "open_terminal()\n"
    "print({said!r}); print({said!r}, file=sys.stderr)\n"
    "sys.exit(close_terminal(0))"
)


def python(code, encoding=None, stdout=subprocess.PIPE, command=None, **more):
    """Run code as its own process; nothing of the tests' own environment decides its encoding."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
    environment = {**kept, "PYTHONPATH": str(HERE), **more}
    if encoding:
        environment["PYTHONIOENCODING"] = encoding
    return subprocess.run(
        command or [sys.executable, "-c", code],
        env=environment, stdout=stdout, stderr=subprocess.PIPE, check=False, cwd=HERE,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_sign_that_the_terminal_lacks_is_written_in_ascii(encoding):
    done = python(SAY.format(said=SAID), encoding)
    name = encoding.partition(":")[0]
    expected = SAID if name.startswith("utf") else None
    for said in (done.stdout, done.stderr):
        read = said.decode("utf-16-le" if name == "utf-16" else name).strip("\ufeff\n")
        if name == "ascii":
            expected = IN_ASCII
        if expected is not None:
            assert read == expected
        assert read.startswith(("a -> b", "a → b")) and "?" not in read
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_file_name_that_is_not_utf8_is_shown_by_its_bytes(encoding):
    done = python(SAY.format(said="b\udcffd"), encoding)
    assert done.stdout == b"b\\xffd\n"


def test_every_file_is_utf8_in_a_locale_of_another_encoding(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tasks.system.terminal import open_terminal\n"
        "open_terminal()\n"
        f"Path({str(tmp_path / 'file')!r}).write_text('M\\u00f6hre \\u2192'); print('\\u2192')"
    )
    done = python(code, **C_LOCALE)
    assert (done.returncode, done.stdout) == (0, b"->\n"), done.stderr
    assert (tmp_path / "file").read_bytes().decode("utf-8") == "Möhre →"


def test_processes_that_are_started_take_any_text_too():
    code = (
        "import subprocess, sys; from tasks.system.terminal import open_terminal\n"
        "open_terminal()\n"
        "subprocess.run([sys.executable, '-c', 'print(chr(0x2192) + chr(0xdcff))'], check=True)"
    )
    assert python(code, "latin-1").stdout == b"\\u2192\\udcff\n"


@pytest.mark.parametrize("closed", ["1", "2", "1 2", "0 1 2"])
def test_closed_streams_are_never_a_file_of_ours(tmp_path, closed):
    code = (
        "import os, sys; from tasks.system.terminal import close_terminal, open_terminal\n"
        "open_terminal()\n"
        f"file = open({str(tmp_path / 'mine')!r}, 'w')\n"
        "print('said'); print('said', file=sys.stderr)\n"
        "os.system('echo said; echo said >&2')\n"
        "file.write(str(file.fileno() > 2))\n"
        "sys.exit(close_terminal(0))"
    )
    shut = " ".join(f"{number}>&-" for number in closed.split())
    done = python(code, command=["bash", "-c", f'exec "$0" -c "$1" {shut}', sys.executable, code])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_text() == "True"


def test_a_reader_that_goes_away_ends_no_work(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.system.terminal import close_terminal, open_terminal\n"
        "open_terminal()\n"
        "for _ in range(100000): print('a line')\n"
        f"Path({str(tmp_path / 'done')!r}).touch(); sys.exit(close_terminal(3))"
    )
    piped = f'"{sys.executable}" -c "$0" | head -1; exit ${{PIPESTATUS[0]}}'
    done = python(code, command=["bash", "-c", piped, code])
    assert (done.returncode, done.stdout, done.stderr) == (3, b"a line\n", b"")
    assert (tmp_path / "done").exists()


def test_output_that_is_lost_is_one_message_and_exits_with_1():
    with open("/dev/full", "wb") as full:
        done = python(SAY.format(said="x"), stdout=full)
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "error: the output could not be written (No space left on device)" in said
    assert "Traceback" not in said and "Exception ignored" not in said


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
@pytest.mark.parametrize("more", [{}, C_LOCALE], ids=["utf-8 locale", "C locale"])
def test_a_change_of_settings_is_told_in_any_encoding(tmp_path, encoding, more):
    settings = (HERE / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(settings, encoding="utf-8")
    (tmp_path / "data" / "pinned").mkdir(parents=True)
    (tmp_path / "data" / "pinned" / "fashion-mnist.sha256").touch()
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r})\n"
        "sys.argv = ['instar', 'set', 'finetune.label_fraction=0.05']\n"
        "from flows.cli.main import main; main()"
    )
    done = python(code, encoding, **more)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"finetune.label_fraction: 0.01 -> 0.05\nNext: instar run\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_an_error_that_holds_any_name_is_one_message(tmp_path, encoding):
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r})\n"
        "sys.argv = ['instar', 'set', 'data.path=M\\u00f6hre \\U0001f648 \\u2192']\n"
        "import shutil; shutil.copy(" + repr(str(HERE / "params.yaml")) + ", '.')\n"
        "from flows.cli.main import main; main()"
    )
    done = python(code, encoding)
    said = done.stderr.decode(encoding)
    assert done.returncode == 1
    assert said.startswith("error: data.path: there is no M") and said.count("\n") == 1


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "utf-8"])
def test_json_is_json_in_any_encoding(encoding):
    code = (
        "from tasks.system.terminal import open_terminal; open_terminal()\n"
        "from flows.cli.app import put_out\n"
        f"put_out({{'name': {SAID!r} + chr(0xdcff)}}, True, print)"
    )
    assert json.loads(python(code, encoding).stdout)["name"] == SAID + "\udcff"
