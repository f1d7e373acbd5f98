"""What pyproject.toml asks for, one requirement a line: the environment is made without the product."""

import tomllib
from pathlib import Path


def requirements(text: str) -> list[str]:
    """Build tools, dependencies and test tools named in a pyproject.toml."""
    data = tomllib.loads(text)
    project = data["project"]
    return [*data["build-system"]["requires"], *project["dependencies"], *project["optional-dependencies"]["test"]]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml").read_text())))
