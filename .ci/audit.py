"""Dependencies, looked at: `make audit`. Ends with 1 when something is wrong with them.

What needs no network: every dependency of pyproject.toml says its least version, constraints.txt pins it, all that is
installed satisfies both; each installed file is the one that its distribution recorded; licences are listed.
What needs one: known vulnerabilities, asked of the OSV database by name and version. Where it cannot be reached the
check says so and fails nothing; a vulnerability that is known fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # mypy brings it where Python does not

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OSV = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 10.0
BEFORE_USE = ("torch",)  # pinned, whatever else is not: it is the largest part, and the one that runs code of models


def requirements(pyproject: Path) -> list[Requirement]:
    """What the project and its extras ask for, but for itself."""
    project = tomllib.loads(pyproject.read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [one for one in map(Requirement, texts) if canonicalize_name(one.name) != project["name"]]


def pins(constraints: Path) -> dict[str, Requirement]:
    """The lines of constraints.txt by name."""
    lines = [line.partition("#")[0].strip() for line in constraints.read_text().splitlines()]
    return {canonicalize_name(one.name): one for one in map(Requirement, filter(None, lines))}


def unbounded(wanted: list[Requirement], pinned: Mapping[str, Requirement]) -> Iterator[str]:
    """Dependencies whose version nobody has said."""
    for one in wanted:
        pin = pinned.get(canonicalize_name(one.name))
        if pin is None:
            yield f"{one.name} is not pinned in constraints.txt"
        elif not any(part.operator in ("==", "===") for part in pin.specifier):
            yield f"constraints.txt does not pin {one.name} to one version: {pin}"
        elif not all(one.specifier.contains(part.version, prereleases=True) for part in pin.specifier):
            yield f"constraints.txt pins {pin}, pyproject.toml wants {one}"
        if not one.specifier and not one.extras and not is_types(one.name):
            yield f"{one.name} has no least version in pyproject.toml"
    yield from (f"{name} is not pinned in constraints.txt" for name in BEFORE_USE if name not in pinned)


def is_types(name: str) -> bool:
    """Whether this holds type descriptions only; their versions follow what they describe."""
    return name.startswith("types-") or name.endswith("-stubs")


def other_versions(pinned: Mapping[str, Requirement], installed: Mapping[str, str]) -> Iterator[str]:
    """Installed versions that are not the pinned ones."""
    for name, pin in pinned.items():
        applies = pin.marker is None or pin.marker.evaluate()
        if applies and name in installed and not pin.specifier.contains(installed[name], prereleases=True):
            yield f"{name} {installed[name]} is installed, constraints.txt wants {pin.specifier}"


def changed_files(distribution: metadata.Distribution) -> Iterator[str]:
    """Files of a distribution that are not as they were recorded when it was installed."""
    for file in distribution.files or ():
        if file.hash is None or file.hash.mode not in hashlib.algorithms_guaranteed:
            continue
        path = Path(str(file.locate()))
        if not path.is_file():
            if path.suffix != ".pyc":
                yield f"{distribution.metadata['Name']}: {file} is missing"
            continue
        with path.open("rb") as opened:
            digest = hashlib.new(file.hash.mode)
            while block := opened.read(1 << 20):
                digest.update(block)
        if base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() != file.hash.value:
            yield f"{distribution.metadata['Name']}: {file} was changed after it was installed"


def licence(distribution: metadata.Distribution) -> str:
    """What a distribution says of its licence."""
    said = distribution.metadata
    names = [text.rpartition("::")[2].strip() for text in said.get_all("Classifier") or () if "License ::" in text]
    text = said.get("License-Expression") or "; ".join(names) or (said.get("License") or "").strip().splitlines()[:1]
    return (text if isinstance(text, str) else "".join(text))[:60] or "not said"


def vulnerabilities(installed: Mapping[str, str]) -> Iterator[str]:
    """Known vulnerabilities of these versions. Raises OSError when no database can be reached."""
    names = sorted(installed)
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": re.sub(r"\+.*", "", installed[name])}
        for name in names
    ]
    question = urllib.request.Request(
        OSV, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(question, timeout=TIMEOUT_S) as answer:
        results = json.load(answer)["results"]
    for name, result in zip(names, results, strict=True):
        yield from (f"{name} {installed[name]}: {found['id']}" for found in result.get("vulns", ()))


def pip_check() -> Iterator[str]:
    """What pip finds missing or in conflict."""
    ended = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if ended.returncode:
        yield from (ended.stdout + ended.stderr).splitlines()


def main() -> int:
    """Look at everything; the exit code."""
    found = {canonicalize_name(one.metadata["Name"]): one for one in metadata.distributions() if one.metadata["Name"]}
    installed = {name: one.version for name, one in found.items() if name not in ("flps", "pip")}
    wanted, pinned = requirements(ROOT / "pyproject.toml"), pins(ROOT / "constraints.txt")
    wrong = [*unbounded(wanted, pinned), *other_versions(pinned, installed), *pip_check()]
    for name in sorted(installed):
        wrong += changed_files(found[name])
        print(f"{name:<28} {installed[name]:<16} {licence(found[name])}")
    try:
        known = list(vulnerabilities(installed))
        print(f"advisories: {len(known)} known for {len(installed)} distributions")
        wrong += known
    except (OSError, ValueError, KeyError) as error:
        print(f"skipped: no advisory database reachable ({error})")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
