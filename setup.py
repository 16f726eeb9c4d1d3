"""Builds the installable package: the command line, the contract and the receiver's core, from their import roots."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOTS = {
    **dict.fromkeys(find_packages("cli"), "cli"),
    **dict.fromkeys(find_packages("lambda", include=["keyturn_contract*"]), "lambda"),
    **dict.fromkeys(find_packages("receiver", include=["keyturn_receiver", "keyturn_receiver.core*"]), "receiver"),
}
# Of the package keyturn_receiver itself (without core), the command line imports only these modules.
RECEIVER = {"__init__", "errors"}


class BuildPy(build_py):
    """Leaves out the receiver's edges."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [each for each in found if package != "keyturn_receiver" or each[1] in RECEIVER]


setup(
    packages=list(ROOTS),
    package_dir={package: f"{root}/{package.replace('.', '/')}" for package, root in ROOTS.items()},
    cmdclass={"build_py": BuildPy},
)
