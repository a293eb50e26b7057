"""Mistakes in a recipe are reported before the training begins."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dia_hf import MINIATURE, DiaConfig
from dia_hf.assets import __file__ as assets
from dia_hf.modeling_dia import DiaPreTrainedModel
from dia_hf.training.recipe import Recipe

SHIPPED = ["lora", "full", "scratch"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_go_through_a_file(tmp_path, name):
    """The recipe saved with a result differed from the one that ran, or could not be read again."""
    recipe = Recipe.load(name)
    file = tmp_path / "new" / "recipe.yaml"
    recipe.save(file)
    assert Recipe.load(file) == recipe
    text = file.read_text("utf-8")
    assert "#   torch 2" in text and "#   dia-hf 0" in text
    assert 0 < recipe.text_dropout < 0.2, "guidance needs a model that was trained without text, too"
    assert recipe.training["max_grad_norm"] == 1.0
    DiaConfig(**(recipe.config or {}))


def test_what_is_said_survives_the_file(tmp_path):
    """Sentences in another script, None and floats changed when they were saved and loaded."""
    recipe = Recipe(
        data="a b/é",
        speak={"sentences": ["[S1] Grüß Gott — „ja“: nein #1."], "asr": "openai/whisper-small"},
        channel_loss_weights=[4, 1.5],
        lora={"target_modules": r".*\.decoder\..*_proj"},
        training={"learning_rate": 1e-5, "eval_strategy": "no", "adam_epsilon": 1e-8, "report_to": ["none"]},
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert recipe.data == ["a b/é"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_people_write_them(number):
    """YAML 1.1 reads 1e-4 as a string: the run failed hours later, or trained at another rate."""
    for text in (repr(number), f"{number:.3e}", f"{number:E}", f"{number:.0e}"):
        changed = Recipe().change({"training.learning_rate": text})
        assert changed.training["learning_rate"] == float(text)


def test_words_as_people_write_them():
    """YAML 1.1 reads `no`, the name of a strategy, as false; `true` must stay a bool."""
    recipe = Recipe.load("full").change(
        {
            "training.eval_strategy": "no",
            "training.bf16": "true",
            "max_frames": "null",
            "lora.r": "8",
            "channel_loss_weights": "[4, 1, 1]",
            "model": "some/where",
        }
    )
    assert (recipe.training["eval_strategy"], recipe.training["bf16"]) == ("no", True)
    assert (recipe.max_frames, recipe.lora, recipe.channel_loss_weights) == (None, {"r": 8}, [4, 1, 1])
    assert recipe.model == "some/where"


def test_an_absurd_rank():
    """Adapters of a billion columns were allocated, and the error came from the allocator."""
    with pytest.raises(ValueError, match=r"`lora.r` is 2000000000; it must be between 1 and 8192"):
        Recipe(lora={"r": 2_000_000_000})


def test_a_change_makes_another_recipe():
    """A change to one run's recipe changed the recipe of another run."""
    recipe = Recipe.load("lora")
    rate = recipe.training["learning_rate"]
    changed = recipe.change({"training.learning_rate": 1.0, "lora.r": 2})
    assert (recipe.training["learning_rate"], recipe.lora["r"]) == (rate, 32)
    assert (changed.training["learning_rate"], changed.lora["r"]) == (1.0, 2)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("text_dropuot", 0.1, "did you mean 'text_dropout'"),
        ("training.learning_rat", 1e-4, "did you mean 'learning_rate'"),
        ("training.batch_size", 4, "did you mean '.*batch_size'"),
        ("lora.rank", 4, "known are .*r, target_modules, use_dora, use_rslora"),
        ("speak.sentence", ["[S1] Hi."], "did you mean 'sentences'"),
        ("config.decoder_config.num_layers", 4, "did you mean 'num_hidden_layers'"),
        ("training.output_dir", "x", "set `output`"),
        ("training.seed", 1, "set `seed`"),
        ("text_dropout", "high", "`text_dropout` is 'high'; it must be a number"),
        ("text_dropout", 1.5, "between 0 and 1"),
        ("code_noise", -0.1, "between 0 and 1"),
        ("label_smoothing", 2, "between 0 and 1"),
        ("training.label_smoothing_factor", 0.1, "set `label_smoothing`"),
        ("training.learning_rate", "fast", "`training.learning_rate` is 'fast'; it must be a number"),
        ("training.max_steps", 1.5, "must be a whole number"),
        ("training.max_steps", True, "must be a whole number"),
        ("training.bf16", "yes", "must be true or false"),
        ("lora.r", 0, "at least 1"),
        ("lora.lora_dropout", "0.1x", "must be a number"),
        ("loss_chunk_size", 0, "at least 1"),
        ("muon_learning_rate", -1e-3, "at least 0"),
        ("max_frames", "many", "a whole number or null"),
        ("dtype", "float8", "must be float32, bfloat16, float16"),
        ("channel_loss_weights", "[a, b]", "must be a list, each a number or null"),
        ("training", 3, "`training` is 3; it must be a table of keys"),
        ("seed.first", 1, "has no keys"),
        ("seed", "[1", "is not valid YAML"),
        ("speak.sentences", "[S1] Hello.", 'quote a text that begins with a bracket: "'),
        ("learning_rate", 1e-4, "did you mean 'training.learning_rate'"),
        ("training.optim", "adamw_torch_8bits", "did you mean 'adamw_torch_8bit'"),
        ("training.max_steps", 0, "at least 1, or -1"),
        ("training.num_train_epochs", 0, "must be above 0"),
        ("speak", "{asr: a}", "has no `sentences`"),
    ],
)
def test_mistakes(key, value, match):
    """An unknown key had no effect without an error; an invalid value failed only when the model was loaded."""
    with pytest.raises(ValueError, match=match):
        Recipe().change({key: value})


def test_a_shape_from_a_file(tmp_path):
    """The shape of a checkpoint's config.json was ignored, or adapters on random weights were accepted."""
    recipe = Recipe(config=f"{MINIATURE}/config.json")
    shape = DiaConfig.from_pretrained(MINIATURE).decoder_config
    assert recipe.config["decoder_config"]["hidden_size"] == shape.hidden_size
    assert DiaConfig(**recipe.config).to_dict() == DiaConfig.from_pretrained(MINIATURE).to_dict()
    with pytest.raises(ValueError, match="adapters need trained weights"):
        Recipe(config=recipe.config, lora={})
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("one")
    with pytest.raises(ValueError, match="is not a DiaConfig"):
        Recipe(config=tmp_path / "list.json")
    with pytest.raises(ValueError, match="is no JSON"):
        Recipe(config=tmp_path / "text.json")
    with pytest.raises(FileNotFoundError):
        Recipe(config="nowhere.json")


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (None, FileNotFoundError, "one of full, lora, scratch"),
        ("", ValueError, "has no keys"),
        ("- 1", ValueError, "has no keys"),
        ("a: [", ValueError, "is not valid YAML"),
        ("modle: x", ValueError, "recipe.yaml has no 'modle'; did you mean 'model'"),
        ("text_dropout: some", ValueError, "must be a number"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, error, match):
    """The error for a file that is no recipe did not name the file."""
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(error, match=match):
        Recipe.load(tmp_path / "recipe.yaml")


def test_the_configuration_for_sharding_names_our_layers():
    """accelerate shards by layer class; after a renaming each GPU would hold the whole model."""
    folder = assets.removesuffix("__init__.py")
    with open(f"{folder}/accelerate/fsdp2.yaml", encoding="utf-8") as file:
        settings = yaml.safe_load(file)["fsdp_config"]
    assert settings["fsdp_transformer_layer_cls_to_wrap"].split(",") == list(DiaPreTrainedModel._no_split_modules)
    assert settings["fsdp_version"] == 2


def test_a_recipe_is_json_too():
    """A recipe with values that JSON does not know cannot be sent to a tracker or a model card."""
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(Recipe.load("scratch")))) == asdict(Recipe.load("scratch"))


def test_a_recipe_in_another_encoding(tmp_path):
    """Python's decoding error named neither the file nor a remedy."""
    (tmp_path / "recipe.yaml").write_text("data: Grüße\n", "utf-16")
    with pytest.raises(ValueError, match=r"recipe\.yaml' is not in UTF-8 .* save it as UTF-8"):
        Recipe.load(tmp_path / "recipe.yaml")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("data: [1]", "`data` is .1.; it must be"),
        ("data: {a: 1}", "`data`"),
        ("model: [x]", "`model`"),
        ("seed: -1", "`seed` is -1"),
        ("seed: 1.5", "`seed` is 1.5"),
        ("config: {encoder_config: 3}", "`config.encoder_config` is 3"),
        ("speak: {sentences: 3}", "`speak.sentences` is 3"),
        ("training: [1]", "`training`"),
        (f"model: [{'x' * 9000}]", "`model`"),
        (f"{'x' * 900}: 1", "has no 'xxx"),
        ("[1]", "has no keys"),
        ("", "has no keys"),
        ("data: " + "[" * 5000, "nested too deeply"),
        ("data: &a [*a]", "in itself"),
        (BOMB, "values, including those that anchors repeat"),
        ("data: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("x: " + "y" * 300_000, "characters"),
    ],
)
def test_a_damaged_recipe_is_one_line(tmp_path, text, match):
    """Lists of numbers, cycles and anchors that multiply caused a traceback, or exhausted the memory."""
    file = tmp_path / "recipe.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=match) as refused:
        Recipe.load(file)
    assert "recipe.yaml" in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 500
