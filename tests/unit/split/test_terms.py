"""Whether parties fit together: what a party tells, and what is said where they do not."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import msgspec
import pytest

from flps.errors import ConfigError
from flps.split.schema import FLYamlData
from flps.split.terms import NetTerms, crossing, disagreements, terms

NETS = Path(__file__).with_name("nets")


def changed(folder: Path, name: str, *changes: tuple[str, str]) -> FLYamlData:
    """A good file with some places changed, under its own name."""
    text = (NETS / f"{name}.yaml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return FLYamlData(path)


def party(name: str, *files: str | FLYamlData) -> NetTerms:
    return terms(name, [FLYamlData(NETS / f"{file}.yaml") if isinstance(file, str) else file for file in files])


LEADER = party("leader", "leader_top", "leader_bottom")
FOLLOWER = party("follower", "follower_bottom")


def test_wide_and_deep_fits_together() -> None:
    assert disagreements([LEADER, FOLLOWER]) == []
    assert crossing(FOLLOWER, LEADER) == ("follower_wide_embedding", "follower_deep_embedding")
    assert crossing(LEADER, FOLLOWER) == ()


def test_the_nets_are_told_by_names() -> None:
    top, bottom = LEADER.nets
    assert (top.file, bottom.file, top.name, bottom.name) == (
        "leader_top", "leader_bottom", "leader_loss_net", "leader_loss_net",
    )  # fmt: skip
    assert top.outputs == ("out", "loss")
    assert top.gradients == top.inputs[:4]
    assert (top.remote, bottom.remote) == ((), ("leader_wide_embedding", "leader_deep_embedding"))
    assert bottom.gradients == ()


def test_what_is_local_does_not_cross() -> None:
    assert "follower_l2_regu" not in FOLLOWER.gives


def test_pangu_fits_together_and_its_head_gets_the_word_table_at_home() -> None:
    owner, backbone = party("a", "embedding", "head"), party("b", "backbone")
    assert disagreements([owner, backbone]) == []
    assert owner.role == "leader"  # though the embedding's file says follower
    assert list(owner.takes) == ["hidden_states"]
    assert crossing(backbone, owner) == ("hidden_states",)


def test_a_word_table_that_nobody_else_takes_stays_at_home(tmp_path: Path) -> None:
    """The two-process form: the backbone takes the embeddings and the mask only."""
    backbone = changed(
        tmp_path, "backbone",
        ("      - {name: word_table, source: remote}\n      - {name: position_id, source: remote}\n", ""),
        ("      - {name: word_table, destination: remote}\n", ""),
        ("      - {name: position_id, destination: remote}\n", ""),
        ("{name: word_table}, {name: position_id}, ", ""),
        ("  - inputs: *names\n    output: {name: word_table, output_index: 1}\n    sens: output\n", ""),
    )  # fmt: skip
    embedding = changed(tmp_path, "embedding", ("sens: word_table", "sens: output"))
    owner, other = party("a", embedding, "head"), party("b", backbone)
    assert disagreements([owner, other]) == []
    assert crossing(owner, other) == ("embedding_table", "attention_mask")


def test_terms_travel_as_bytes() -> None:
    for told in (LEADER, FOLLOWER):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=NetTerms) == told


def test_no_folder_no_weight_and_no_epsilon_is_told(tmp_path: Path) -> None:
    file = changed(tmp_path, "leader_top", ("{name: deep}", "{name: secret_weight}"), ("eps: 1.0", "eps: 7.25"))
    told = msgspec.json.encode(party("leader", file, "leader_bottom")).decode()
    assert not any(word in told for word in (str(tmp_path), str(NETS), "secret_weight", "7.25", "label_dp"))
    assert "leader_top.yaml:8" in told


def test_the_order_of_the_parties_does_not_matter(tmp_path: Path) -> None:
    third = party(
        "third", changed(tmp_path, "follower_bottom", ("epochs: 20", "epochs: 3"), ("sens: loss", "sens: lost"))
    )
    said = [disagreements(parties) for parties in permutations([LEADER, FOLLOWER, third])]
    assert said[0]
    assert all(one == said[0] for one in said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("epochs: 20", "epochs: 3"),
            "hyper_parameters.epochs: must be equal for all, but follower (follower_bottom.yaml:37) says 3, "
            "leader (leader_top.yaml:50) says 20",
        ),
        (
            ("epochs: 20, ", ""),
            "hyper_parameters.epochs: must be equal for all, but follower (follower_bottom.yaml, by default) says 1, "
            "leader (leader_top.yaml:50) says 20",
        ),
        (("batch_size: 16000", "batch_size: 8000"), "hyper_parameters.batch_size: must be equal for all, but follower"),
        (("is_eval: True", "is_eval: False"), "says false, leader (leader_top.yaml:50) says true"),
        (("is_eval: True", "is_eval: True, micro_batches: 4"), "hyper_parameters.micro_batches: must be equal for all"),
        (
            ("role: follower", "role: leader"),
            "role: one party is the leader, here are 2: follower (follower_bottom.yaml:1)",
        ),
        (
            ("follower_deep_embedding", "follower_dep_embedding"),
            "follower_deep_embedding: leader (leader_top.yaml:9) takes it from another party, but none has such an "
            "output with destination: remote; did you mean follower_dep_embedding of follower?",
        ),
        (
            (
                "{name: follower_deep_embedding, destination: remote",
                "{name: follower_deep_embedding, destination: local",
            ),
            "follower_deep_embedding: leader (leader_top.yaml:9) takes it from another party, but none has such",
        ),
        (
            ("bit_num: 6", "bit_num: 4"),
            "follower_wide_embedding: leader (leader_top.yaml:8) says compress_type min_max with 6 bits, but follower "
            "(follower_bottom.yaml:9) sends it and has min_max with 4 bits; the sender's file decides",
        ),
        (
            ("compress_type: min_max, bit_num: 6", "grad_compress_type: bf16"),
            "follower_wide_embedding: follower (follower_bottom.yaml:9) says grad_compress_type bf16, but leader "
            "(leader_top.yaml:8) sends it and has min_max with 6 bits; the sender's file decides",
        ),
        (
            ("sens: loss", "sens: lost"),
            "follower (follower_bottom.yaml:23): no gradient of follower_wide_embedding comes with the label lost; it "
            "is sent as loss",
        ),
    ],
)
def test_what_does_not_fit(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    said = disagreements([LEADER, party("follower", changed(tmp_path, "follower_bottom", change))])
    assert any(says in line for line in said), said


def test_a_receiver_needs_no_settings(tmp_path: Path) -> None:
    top = changed(tmp_path, "leader_top", (", compress_type: min_max, bit_num: 6", ""))
    assert disagreements([party("leader", top, "leader_bottom"), FOLLOWER]) == []


def test_a_gradient_that_nobody_sends(tmp_path: Path) -> None:
    top = changed(tmp_path, "leader_top", ("      - name: follower_deep_embedding\n    output", "    output"))
    said = disagreements([party("leader", top, "leader_bottom"), FOLLOWER])
    assert said == [
        "follower (follower_bottom.yaml:30): no gradient of follower_deep_embedding comes with the label loss; no "
        "grad_scalers has it among its inputs"
    ]


def test_two_followers_with_names_of_their_own(tmp_path: Path) -> None:
    second = changed(tmp_path, "follower_bottom", ("follower_", "second_"))
    extra = [
        (f"      - {{name: follower_{kind}_embedding, source: remote, compress_type: min_max, bit_num: 6}}\n",)
        for kind in ("wide", "deep")
    ]
    top = changed(
        tmp_path, "leader_top",
        *((line, line + line.replace("follower_", "second_")) for (line,) in extra),
        ("      - name: follower_deep_embedding\n    output", "      - name: follower_deep_embedding\n"
         "      - name: second_wide_embedding\n      - name: second_deep_embedding\n    output"),
    )  # fmt: skip
    assert disagreements([party("leader", top, "leader_bottom"), FOLLOWER, party("second", second)]) == []


def test_two_followers_with_the_same_names() -> None:
    said = disagreements([LEADER, FOLLOWER, party("second", "follower_bottom")])
    assert said[0] == (
        "follower_wide_embedding: leader (leader_top.yaml:8) takes it from one party, but follower "
        "(follower_bottom.yaml:9) and second (follower_bottom.yaml:9) give it; give the outputs different names"
    )


def test_a_party_whose_own_files_differ(tmp_path: Path) -> None:
    top = changed(tmp_path, "leader_top", ("epochs: 20", "epochs: 19"))
    with pytest.raises(ConfigError) as caught:
        party("leader", top, "leader_bottom")
    assert str(caught.value).splitlines() == [
        "the files of leader do not fit together:",
        "  hyper_parameters.epochs: leader_bottom.yaml:37 says 20, but leader_top.yaml:50 says 19",
    ]


def test_two_nets_of_a_party_with_one_output(tmp_path: Path) -> None:
    first = changed(tmp_path, "leader_bottom", ("leader_deep_embedding", "follower_wide_embedding"))
    with pytest.raises(
        ConfigError, match=r"follower_wide_embedding is an output of another net already, at .*leader_bottom"
    ):
        party("leader", first, "follower_bottom")


def test_one_file_may_speak_for_all_of_a_party(tmp_path: Path) -> None:
    bottom = changed(
        tmp_path, "leader_bottom", ("hyper_parameters: {epochs: 20, batch_size: 16000, is_eval: True}\n", "")
    )
    assert disagreements([party("leader", bottom, "leader_top"), FOLLOWER]) == []
