"""A config.json that is not as it should be is an error that names it."""

import dataclasses
import json

import pytest
from test_golden import GOLDEN

from embed import hf
from embed.hf.export import export
from embed.hf.export_json import documents
from embed.model.presets import PRESETS


def paths(fields, before=()):
    for name, value in fields.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


@pytest.mark.parametrize("kind", ["embeddinggemma2", "gemma4_e2b"])
def test_every_field_of_a_config_is_checked(tmp_path, kind):
    """Absent, null, or of another kind, a field gives an architecture or an error that names the file and a field."""
    text, refused = (GOLDEN / kind / "config.json").read_text(), 0
    for path in paths(json.loads(text)):
        for other in (..., None, "x", [], {"a": 1}, 0, 10**12):
            config = json.loads(text)
            fields = config
            for name in path[:-1]:
                fields = fields[name]
            if other is ...:
                del fields[path[-1]]
            else:
                fields[path[-1]] = other
            (tmp_path / "config.json").write_text(json.dumps(config))
            try:
                hf.read_architecture(tmp_path)
            except hf.HubError as error:
                refused += 1
                assert str(error).startswith(f"{tmp_path / 'config.json'}: ")
    assert refused > 100


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize(
    ("pooling", "mode"), [("mean", "mean"), ("last", "lasttoken"), ("first", "cls"), ("max", "max")]
)
def test_pooling_and_attention_direction_go_out_and_come_back(tmp_path, tokenizer, pooling, mode, attention):
    arch = dataclasses.replace(PRESETS["tiny_gemma4_e2b"], pooling=pooling, attention=attention)
    for name, content in documents(arch, tokenizer).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    config = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text())["pooling_mode"] == mode
    assert config["use_bidirectional_attention"] == (None if attention == "causal" else "all")
    again = hf.read_architecture(tmp_path, attention)  # as a folder of another's, without our embed.json
    assert (again.pooling, again.attention) == (pooling, attention)
    assert again.local_attention == arch.local_attention


@pytest.mark.parametrize(
    ("preset", "fields", "message"),
    [
        ("gemma4_e2b", {"encoder": "embed.model.late_fusion:LateFusion"}, "the encoder embed.model.late_fusion:LateFu"),
        ("gemma4_e2b", {"encoder": "mine:Encoder"}, "the encoder mine:Encoder cannot be exported"),
        (
            "gemma4_e2b",
            {"pooling": "median"},
            "pooling 'median' cannot be exported: choose from mean, last, first, max",
        ),
        ("embeddinggemma2", {"pooling": "max"}, "max pooling cannot be exported from an EmbeddingGemma 2"),
        ("embeddinggemma2", {"attention": "causal"}, "causal attention cannot be exported"),
    ],
)
def test_what_the_layout_cannot_say_is_refused_in_one_line(tmp_path, tokenizer, preset, fields, message):
    arch = dataclasses.replace(PRESETS[f"tiny_{preset}"], **fields)
    with pytest.raises(hf.HubError, match=message) as error:
        export(tmp_path / "out", arch, tokenizer, dict)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_pooling_that_embed_has_not_is_refused(tmp_path):
    (tmp_path / "config.json").write_text((GOLDEN / "gemma4_e2b" / "config.json").read_text())
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}))
    assert hf.read_architecture(tmp_path).pooling == "last"
    pooling.write_text(json.dumps({"pooling_mode": "weightedmean"}))
    with pytest.raises(hf.HubError, match="pooling_mode 'weightedmean'; known are mean, lasttoken, cls, max"):
        hf.read_architecture(tmp_path)
    (tmp_path / "embed.json").write_text(json.dumps({"widths": [8], "media": {}}))
    with pytest.raises(hf.HubError, match="of an earlier version of embed: export the model again"):
        hf.read_architecture(tmp_path)
