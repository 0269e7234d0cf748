"""Names become models, or one clear complaint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flps.errors import ConfigError
from flps.models.catalog import resolve, schemas
from flps.models.ctr_dnn.hyper import CtrDnnHyperParameters
from flps.models.ncf.hyper import NcfHyperParameters
from flps.models.ncf.model import NCF_GMF

USERS_MODEL = """
import torch

class Mine(torch.nn.Module):
    pass

def build(hyper_parameters, seed):
    model = Mine()
    model.said = (dict(hyper_parameters), seed, {word!r})
    return model

not_a_function = 3
"""


def write_model(folder: Path, word: str = "here", name: str = "mine.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(USERS_MODEL.format(word=word))
    return path


def test_the_catalog_costs_no_torch() -> None:
    code = "import sys, flps.models.catalog as c; c.schemas(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_built_in_models() -> None:
    assert schemas() == {"ncf": NcfHyperParameters, "ctr_dnn": CtrDnnHyperParameters}
    plain = msgspec.to_builtins(NcfHyperParameters(mode="NCF_GMF", num_users=3, num_items=4))
    assert isinstance(resolve("ncf")(plain, 1), NCF_GMF)
    with pytest.raises(ConfigError, match="hyper_parameters"):
        resolve("ncf")({"mode": "NCF"}, 1)


def test_a_users_file_is_looked_for_in_the_working_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, beside = tmp_path / "work", tmp_path / "beside"
    write_model(beside, "beside")
    work.mkdir()
    monkeypatch.chdir(work)
    assert resolve("mine.py:build", beside)({"a": 1}, 7).said == ({"a": 1}, 7, "beside")
    write_model(work, "work")
    assert resolve("mine.py:build", beside)({}, 7).said == ({}, 7, "work")
    assert resolve(f"{beside / 'mine.py'}:build")({}, 7).said == ({}, 7, "beside")


def test_a_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "module", "flps_test_users_model.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("flps_test_users_model:build")({}, 0).said == ({}, 0, "module")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nfc", "did you mean ncf"),
        ("gpt", "built in: ncf"),
        ("mine.py", "named path/to/model.py:build"),
        ("mine.py:", "named path/to/model.py:build"),
        (":build", "named path/to/model.py:build"),
        ("mine.py:a.b", "named path/to/model.py:build"),
        ("nowhere.py:build", "there is no file"),
        ("mine.py:bild", "has no function 'bild'"),
        ("mine.py:not_a_function", "has no function 'not_a_function'"),
        ("broken.py:build", "ZeroDivisionError: division by zero"),
        ("no.such.module:build", "No module named 'no'"),
    ],
)
def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, complaint: str) -> None:
    write_model(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        resolve(name)


def test_the_complaint_about_a_missing_file_names_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        resolve("models/mine.py:build", tmp_path / "configs")
    for place in (tmp_path / "models/mine.py", tmp_path / "configs/models/mine.py"):
        assert str(place.resolve()) in str(caught.value)
