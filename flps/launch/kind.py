"""Which flags belong to which kind of job.

Law: the yaml's `job:` decides the kind; a flag of another kind is an error that says so, never a flag without effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flps.errors import ConfigError
from flps.models.wide_deep.options import NetworkConfig

# Keys of the original's network_config that are flags of a split job; of flrun's own name are these two.
OWN = ("seed", "resume")
SETTINGS = tuple(key for key in NetworkConfig.__struct_fields__ if key not in OWN)
PASSWORDS = ("server_password", "client_password")
ROLES_OF = {"federation": ("server", "worker", "heter_worker", "coordinator"), "split": ("leader", "follower")}

# What stands in Arguments -> the flag that says it, by the kind of job that it belongs to.
FLAGS_OF: Mapping[str, Mapping[str, str]] = {
    "federation": {
        "trainer": "a trainer script",
        "worker_num": "--worker_num",
        "server_num": "--server_num",
        "coordinator_num": "--coordinator_num",
        "heter_worker_num": "--heter_worker_num",
        "servers": "--servers",
        "workers": "--workers",
        "coordinators": "--coordinators",
        "heter_workers": "--heter_workers",
        "host": "--host",
        "pure_bf16": "--pure_bf16",
    },
    "split": {"leader": "--leader", "evaluate": "--evaluate", "predict": "--predict"},
}


def taken(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """A command line without the flags of SETTINGS, and what they say as `key=value`.

    Raises ConfigError for one without a value, and for a password: the command line is everybody's to read.
    """
    left: list[str] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag[2:] not in SETTINGS:
            left.append(word)
            continue
        _refuse_password(flag)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{flag} wants a value, as in {flag}=VALUE")
            value = rest.pop(0)
        settings.append(f"{flag[2:]}={value}")
    return left, tuple(settings)


def _refuse_password(flag: str) -> None:
    if flag[2:] in PASSWORDS:
        variable = f"FLPS_{flag[2:].upper()}"
        raise ConfigError(
            f"{flag}: a command line is everybody's to read on this machine; put the password into the variable "
            f"{variable}, or into a file that {variable}_FILE names"
        )


def expect_flags_of(kind: str, given: Mapping[str, object]) -> None:
    """Raises ConfigError that names every flag that is not of this kind of job.

    given: the fields of Arguments.
    """
    wrong = [
        f"{flag} ({other} jobs)"
        for other, flags in FLAGS_OF.items()
        if other != kind
        for name, flag in flags.items()
        if given[name] not in (None, False)
    ]
    settings = given["settings"]
    if kind != "split" and isinstance(settings, tuple):
        wrong += [f"--{setting.partition('=')[0]} (split jobs; here a key is changed by -o)" for setting in settings]
    role = given["role"]
    if role is not None and role not in ROLES_OF.get(kind, ()):
        wrong.append(f"--role {role} (a {kind} job has the roles {', '.join(ROLES_OF.get(kind, ()))})")
    if wrong:
        raise ConfigError(f"this is a job of the kind {kind}, to which these do not belong: " + ", ".join(wrong))
