import subprocess
import sys


def test_reading_settings_imports_no_torch():
    code = (
        "import sys, models.errors, models.learners, models.methods;"
        "import models.training.params, models.encoders.params;"
        "sys.exit(bool({'torch', 'timm', 'lightning'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_own_encoder_imports_no_timm():
    code = (
        "import sys, models.encoders.images.encoder as e, models.encoders.params as p;"
        "e.build_encoder(p.EncoderParams(), 1, 28, [0.5], [0.5]);"
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
