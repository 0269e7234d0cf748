"""Which tensors of a net the yaml's `privacy` is about; what is done to them is `flps.split.privacy`'s.

Law 1: only what leaves the party is touched. Which tensors do is said by the loop, which knows all nets (`sent`,
`received`); until it does, outputs with `destination: remote`, and inputs with `source: remote`. A tensor that is only
passed on, input and output of one name, goes as it is: a mask of noisy signs masks nothing.
Law 2: a scheme of the yaml that has nothing to protect in this net is told: by an error where the yaml alone says so,
in the log where the loop does.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flps.errors import ConfigError
from flps.split.privacy import Protection

if TYPE_CHECKING:
    from flps.split.schema import FLYamlData

log = logging.getLogger(__name__)


def protection_of(
    yaml_data: FLYamlData,
    seed: int | bytes | None = None,
    rows_per_epoch: int | None = None,
    sent: Iterable[str] | None = None,
    received: Iterable[str] | None = None,
) -> Protection | None:
    """The privacy schemes of one net; None when its yaml has none, or nothing that they are about.

    seed: a secret; None: fresh from the operating system, kept in the checkpoints. rows_per_epoch: how many rows go out
    in an epoch, each once; None: every row counts as sent in every step. sent, received: of the net's outputs and
    inputs those that cross between parties. Raises ConfigError for a scheme that has nothing to protect.
    """
    said = dict(yaml_data.privacy or {})
    names: dict[str, list[str]] = {}
    if "label_dp" in said:
        names["labels"] = _labels(yaml_data)
    if "embedding_dp" in said:
        given = [entry for entry in yaml_data.train_net_outs if entry["name"] not in yaml_data.train_net_in_names]
        names["outputs"] = _crossing(yaml_data, "embedding_dp", "outputs", given, "destination", sent)
    if "cut" in said:
        names["inputs"] = _crossing(yaml_data, "cut", "inputs", yaml_data.train_net_ins, "source", received)
    for scheme, side in (("embedding_dp", "outputs"), ("cut", "inputs")):
        if scheme in said and not names[side]:
            log.warning(
                "%s: none of the %s crosses to another party: %s is not applied",
                yaml_data.where(f"privacy.{scheme}"), side, scheme,
            )  # fmt: skip
            del said[scheme]
    if not said:
        return None
    # Nets of one party may be given one seed; the noise of one must not be that of another.
    own = None if seed is None else _derived(seed, f"{yaml_data.role}/{yaml_data.train_net['name']}")
    labels, outputs, inputs = (names.get(side, []) for side in ("labels", "outputs", "inputs"))
    return Protection(said, labels=labels, outputs=outputs, inputs=inputs, seed=own, rows_per_epoch=rows_per_epoch)


def _labels(yaml_data: FLYamlData) -> list[str]:
    names = [name for name in [*yaml_data.labels, yaml_data.eval_net_gt] if name in yaml_data.train_net_in_names]
    if not names:
        raise ConfigError(
            f"{yaml_data.where('privacy.label_dp')}: label_dp wants to know which input of train_net is the label: "
            "name it in dataset.labels or in eval_net.gt"
        )
    return list(dict.fromkeys(map(str, names)))


def _crossing(
    yaml_data: FLYamlData,
    scheme: str,
    side: str,
    entries: list[dict[str, Any]],
    key: str,
    told: Iterable[str] | None,
) -> list[str]:
    """Names of the tensors that a scheme is about."""
    if told is not None:
        known = set(told)
        return [str(entry["name"]) for entry in entries if entry["name"] in known]
    names = [str(entry["name"]) for entry in entries if entry.get(key) == "remote"]
    if not names:
        place = yaml_data.where(f"privacy.{scheme}")
        raise ConfigError(f"{place}: {scheme} has nothing to protect: none of the {side} says `{key}: remote`")
    return names


def _derived(seed: int | bytes, purpose: str) -> bytes:
    """A seed that tells nothing of the others that are made of the same one."""
    own = seed if isinstance(seed, bytes) else seed.to_bytes(max(8, (seed.bit_length() + 7) // 8), "little")
    return hashlib.blake2b(purpose.encode() + b"/" + own, digest_size=32).digest()
