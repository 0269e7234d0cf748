"""How a net's yaml wants its tensors packed for other parties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flps.compression import CompressConfig

if TYPE_CHECKING:
    from flps.split.schema import FLYamlData

_MORE = ("grad_compress_type", "grad_bit_num", "top_k", "grad_top_k", "error_feedback")


def compress_configs(yaml_data: FLYamlData, signs: Iterable[str]) -> dict[str, CompressConfig]:
    """Tensor -> how it, and the gradient of its name, are packed; a later entry of a name wins.

    signs: tensors of 0 and 1 (`privacy.embedding_dp`): they take one bit each, whatever the yaml says; their gradients
    go as it says.
    """
    configs = {}
    for net in (yaml_data.train_net, yaml_data.eval_net):
        for entry in (*net["inputs"], *net["outputs"]):
            kinds = {entry.get("compress_type") or "no_compress", entry.get("grad_compress_type") or "no_compress"}
            if kinds != {"no_compress"}:
                more = {key: entry[key] for key in _MORE if entry.get(key) is not None}
                kind = entry.get("compress_type") or "no_compress"
                configs[str(entry["name"])] = CompressConfig(kind, entry.get("bit_num") or 8, **more)
    for name in signs:
        back = configs.get(name, CompressConfig("no_compress")).gradients
        configs[name] = CompressConfig(
            "bit_pack", 1, top_k=back.top_k, grad_compress_type=back.compress_type, grad_bit_num=back.bit_num,
            error_feedback=back.error_feedback,
        )  # fmt: skip
    return configs
