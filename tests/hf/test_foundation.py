"""Gemma 3 270M itself: fetched by the command's own function, converted, and the same model as transformers reads.

`pytest -m foundation` runs these where pip reaches the packages, or the cache has them; they download 240 MB once.
"""

import inspect
import json
import random
import textwrap
import unicodedata

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("gguf", reason="needs the extra [gguf]")

from gguf import GGMLQuantizationType

from embed import hf
from embed.__main__ import main
from embed.batch import Inputs
from embed.data.budget import Budget
from embed.data.collate import make_packed_rows
from embed.data.pieces import TextPiece
from embed.distributed import mesh
from embed.hf.gguf import convert_gguf
from embed.hf.gguf_file import GGUFFile
from embed.hf.packaged_models import GEMMA3_270M
from embed.hf.packages import fetch
from embed.model.build import build
from embed.training.metadata import read_architecture, read_metadata

pytestmark = pytest.mark.foundation
# The Universal Declaration of Human Rights.
TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood. Everyone is entitled to all the rights and "
    "freedoms set forth in this Declaration, without distinction of any kind, such as race, colour, sex, language, "
    "religion, political or other opinion, national or social origin, property, birth or other status. Everyone has"
    " the right to life, liberty and security of person. No one shall be held in slavery or servitude; slavery and "
    "the slave trade shall be prohibited in all their forms.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen. Jeder hat Anspruch auf die in dieser Erklärung "
    "verkündeten Rechte und Freiheiten ohne irgendeinen Unterschied, etwa nach Rasse, Hautfarbe, Geschlecht, Sprache, "
    "Religion, politischer oder sonstiger Überzeugung, nationaler oder sozialer Herkunft, Vermögen, Geburt oder "
    "sonstigem Stand. Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité. Chacun peut se prévaloir de "
    "tous les droits et de toutes les libertés proclamés dans la présente Déclaration, sans distinction aucune, "
    "notamment de race, de couleur, de sexe, de langue, de religion, d'opinion politique ou de toute autre opinion, "
    "d'origine nationale ou sociale, de fortune, de naissance ou de toute autre situation.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros. Toda persona tiene todos los derechos y "
    "libertades proclamados en esta Declaración, sin distinción alguna de raza, color, sexo, idioma, religión, opinión "
    "política o de cualquier otra índole, origen nacional o social, posición económica, nacimiento o cualquier otra "
    "condición. Todo individuo tiene derecho a la vida, a la libertad y a la seguridad de su persona.",
    "python": inspect.getsource(textwrap.fill) + inspect.getsource(textwrap.shorten),
}
OTHERS = [
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "<table><tr><td>1</td></tr></table>\n\n\n\t\tx = {'a': 1}\r\n" + " " * 31 + "y",
    "👩‍👩‍👧 e\u0301 \x00 ﬁ ＡＢ ▁ <0x41>",
]
CONTINUATIONS = {
    "The capital of Germany is the city of": " Berlin",
    "Monday, Tuesday, Wednesday,": " Thursday",
    "def add(a, b):\n    return a": " +",
    "import numpy as": " np",
}


@pytest.fixture(scope="session")
def file():
    try:
        return fetch(GEMMA3_270M) / "gemma-3-270m-q4_k_m.gguf"
    except hf.HubError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def folder(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma3_270m")
    convert_gguf(file, folder)
    return folder


@pytest.fixture(scope="session")
def original(file):
    """transformers' model of the GGUF file."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    torch = pytest.importorskip("torch", reason="needs the extra [hf]")
    pytest.importorskip("accelerate", reason="transformers reads GGUF with it")
    return transformers.Gemma3ForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


def random_texts(count):
    rng = random.Random(0)
    letters = [chr(code) for code in range(1, 0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    return ["".join(rng.choices(letters, k=20)) + rng.choice([" ", "  ", "\n", "a"]) for _ in range(count)]


def read_inputs(tokenizer_ids, preprocessor) -> Inputs:
    """One row with one text, whose ids are `tokenizer_ids`, without what the preprocessor adds around it."""
    rows = make_packed_rows([[[TextPiece(tuple(tokenizer_ids))]]], Budget(len(tokenizer_ids) + 2), preprocessor, 1)
    return mesh.to_global(rows)


def test_config_is_gemma_3_270m(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["layer_types"] == [*["sliding_attention"] * 5, "full_attention"] * 3
    expected = {"hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1}
    expected |= {"head_dim": 256, "sliding_window": 512, "vocab_size": 262_144, "query_pre_attn_scalar": 256}
    assert expected.items() <= config.items()


def test_its_quantizations_are_those_of_q4_k_m(file):
    types = {tensor.tensor_type for tensor in GGUFFile(file).tensors.values()}
    names = ("F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0")
    assert types == {GGMLQuantizationType[name] for name in names}


def test_every_tensor_is_transformers_bit_for_bit(folder, original):
    theirs = {name.removeprefix("model."): value.numpy() for name, value in original.state_dict().items()}
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_ids_are_those_of_transformers(file, folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    pytest.importorskip("torch", reason="needs the extra [hf]")
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS.values(), *OTHERS, *random_texts(2000), inspect.getsource(inspect)]
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]


def test_texts_come_back_and_control_tokens_are_text(folder):
    preprocessor = hf.load_preprocessor(folder)
    tokenizer = preprocessor.tokenizer
    for text in (*TEXTS.values(), *OTHERS[:-1], "<eos><start_of_image><unused9>"):
        ids = tokenizer.encode(text)
        assert tokenizer.backend.decode(ids, skip_special_tokens=False) == text
        assert min(ids) > max(tokenizer.audio) and not set(ids) & {*tokenizer.image, *tokenizer.video}
    added = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values()]
    assert {f"<unused{number}>" for number in range(6242)} <= set(added)
    assert (tokenizer.size, tokenizer.prefix, tokenizer.suffix) == (262_144, [2], [])


@pytest.mark.parametrize("language", TEXTS)
def test_the_next_token_is_transformers_at_every_position(folder, original, language):
    """The encoder, causal, with the tied table as a head; hidden states to 1e-3 of the largest value."""
    torch = pytest.importorskip("torch", reason="needs the extra [hf]")
    arch = hf.read_architecture(folder, "causal")
    preprocessor = hf.load_preprocessor(folder)
    ids = preprocessor.tokenizer.encode(TEXTS[language])[:120]
    assert len(ids) >= 100
    params = hf.load(folder, build(arch))
    inputs = read_inputs(ids, preprocessor)

    def run(params, inputs):
        _, captured = build(arch).apply(
            {"params": params},
            inputs,
            capture_intermediates=lambda module, _: module.name == "backbone",
            mutable=["intermediates"],
        )
        states = captured["intermediates"]["backbone"]["__call__"][0]
        return states, states @ params["vocabulary"].T

    states, logits = (np.asarray(value)[0] for value in jax.jit(run)(params, inputs))
    row = np.asarray(inputs.tokens)[0, np.asarray(inputs.segments)[0] > 0]
    assert row.tolist() == [2, *ids]
    with torch.no_grad():
        out = original(torch.tensor(row[None]), output_hidden_states=True)
    theirs = out.hidden_states[-1][0].numpy()
    assert np.abs(states[: len(row)] - theirs).max() <= 1e-3 * np.abs(theirs).max()
    assert np.array_equal(logits[: len(row)].argmax(-1), out.logits[0].argmax(-1).numpy())


def test_known_texts_are_continued(folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    torch = pytest.importorskip("torch", reason="needs the extra [hf]")
    model = transformers.Gemma3ForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, following in CONTINUATIONS.items():
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits
        assert tokenizer.decode(logits[0, -1].argmax()) == following


def test_the_command_imports_it_once(file, tmp_path, process_state, capsys, caplog):
    assert main(["foundation", "gemma3_270m", str(tmp_path / "run")]) == 0
    assert "Gemma Terms of Use, https://ai.google.dev/gemma/terms" in caplog.text
    metadata = read_metadata(tmp_path / "run")
    assert metadata["init"] == str(file)
    assert read_architecture(metadata).vocab_size == 262_144
    caplog.clear()
    assert main(["foundation", "gemma3_270m", str(tmp_path / "run")]) == 0
    assert "already imported" in caplog.text
