import re
import sys
from pathlib import Path

import pytest

from dia_hf._extras import _EXTRAS, import_extra


@pytest.mark.parametrize("package", sorted(_EXTRAS))
def test_an_extra_brings_the_package(monkeypatch, package):
    """An error named an extra that lacks the package."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    extras = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    for extra in _EXTRAS[package]:
        names = [re.match(r"[\w-]+", line)[0].replace("-", "_") for line in extras["optional-dependencies"][extra]]
        assert package in names
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'`{package}` cannot be imported .*pip install "dia-hf\[{extra}\]"|or `"'):
        import_extra(package)


def test_a_package_that_no_extra_brings(monkeypatch):
    """The name of a submodule was suggested to pip."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"`matplotlib` cannot be imported .*: `pip install matplotlib` brings it"):
        import_extra("matplotlib.figure")


def test_an_installed_package():
    """The whole package was returned for a submodule."""
    assert import_extra("json.decoder") is sys.modules["json.decoder"]
