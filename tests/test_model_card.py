"""The README.md of a saved checkpoint."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils import hub as transformers_hub

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.model_card import write_model_card


def read_card(folder):
    return ModelCard((Path(folder) / "README.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def model():
    return DiaForConditionalGeneration.from_pretrained(MINIATURE)


def test_a_saved_model_has_a_card_that_runs(model, tmp_path, monkeypatch):
    """A saved model had no description of how to load it; the card's example must run as printed."""
    model.save_pretrained(tmp_path / "saved")
    DiaProcessor.from_pretrained(MINIATURE).save_pretrained(tmp_path / "saved")
    card = read_card(tmp_path / "saved")
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("transformers", "apache-2.0", None)
    assert card.data.pipeline_tag == "text-to-speech"
    assert not any(str(place) in card.content for place in (tmp_path, MINIATURE))
    monkeypatch.chdir(tmp_path)
    code = card.text.split("```python\n")[1].split("```")[0]
    exec(code.replace("this/folder", "saved").replace("=256", "=20"), {})
    assert (tmp_path / "hello.wav").stat().st_size > 44


def test_a_card_that_exists_stays(model, tmp_path):
    """The second save replaced the user's own card."""
    (tmp_path / "README.md").write_bytes(b"mine\r\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b"mine\r\n"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "README.md").symlink_to("nowhere")
    model.save_pretrained(tmp_path / "linked")
    assert (tmp_path / "linked" / "README.md").is_symlink() and not (tmp_path / "linked" / "nowhere").exists()


def test_no_card_where_none_is_wanted(model, tmp_path):
    """Each of a run's checkpoints got a card, and each process of a run wrote one."""
    model.save_pretrained(tmp_path / "checkpoint-500")
    model.save_pretrained(tmp_path / "second process", is_main_process=False)
    assert not list(tmp_path.rglob("README.md"))


def test_the_base_model_is_one_of_the_hub(tmp_path, monkeypatch):
    """A relative path, whose folder was gone, looked like a base model on the Hub, and was published."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    downloaded = tmp_path / "cache" / "models--anna--dia"
    shutil.copytree(MINIATURE, downloaded / "snapshots" / "0123")
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text("0123")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    DiaForConditionalGeneration.from_pretrained("anna/dia", cache_dir=tmp_path / "cache").save_pretrained(
        tmp_path / "anna"
    )
    assert (read_card(tmp_path / "anna").data.base_model, read_card(tmp_path / "anna").data.license) == (
        "anna/dia",
        None,
    )

    monkeypatch.chdir(tmp_path)
    shutil.copytree(MINIATURE, "runs/dia")
    local = DiaForConditionalGeneration.from_pretrained("runs/dia")
    shutil.rmtree("runs")
    local.save_pretrained("local")
    assert read_card("local").data.base_model is None and "runs/dia" not in read_card("local").content

    for name in ("nari-labs/Dia-1.6B-0626", "", str(tmp_path / "cache")):
        (tmp_path / "cards" / str(len(name))).mkdir(parents=True)
        write_model_card(tmp_path / "cards" / str(len(name)), name)
        data = read_card(tmp_path / "cards" / str(len(name))).data
        is_published = name.startswith("nari-labs")
        assert data.base_model == (name if is_published else None)
        assert data.license == ("apache-2.0" if is_published else None)


@pytest.mark.parametrize("has_card", [True, False])
@pytest.mark.parametrize("way", ["push", "save and push"])
def test_the_card_on_the_hub_stays(model, tmp_path, monkeypatch, way, has_card):
    """The card of a saved model replaced the user's own card on the Hub."""
    uploaded = {}

    def create_commit(repo_id, operations, **kwargs):
        for operation in operations:
            uploaded[operation.path_in_repo] = Path(operation.path_or_fileobj).read_bytes()

    def load(repo_id, **kwargs):
        if not has_card:
            raise EntryNotFoundError("no README.md")
        return ModelCard("---\nlicense: mit\n---\n# The owner's words\n")

    api = SimpleNamespace(
        create_repo=lambda repo_id, **kwargs: SimpleNamespace(repo_id=repo_id), create_commit=create_commit
    )
    for name in ("hf_api", "create_repo", "create_commit"):  # by the names of all releases
        value = (lambda *args, **kwargs: api) if name == "hf_api" else getattr(api, name)
        monkeypatch.setattr(transformers_hub, name, value, raising=False)
        monkeypatch.setattr("transformers.modeling_utils." + name, value, raising=False)
    monkeypatch.setattr(ModelCard, "load", load)
    if way == "push":
        model.push_to_hub("me/dia")
    else:
        model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/dia")
    card = ModelCard(uploaded["README.md"].decode())
    assert ("The owner's words" in card.content) == has_card
    assert card.data.license == "mit" or not has_card
    assert str(tmp_path) not in card.content and MINIATURE not in card.content
