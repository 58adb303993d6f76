"""Everything else is in pyproject.toml; a static package list would silently drop a new sub-package from the wheel."""

from setuptools import find_namespace_packages, setup

ROOTS = ("cli", "datagen", "models", "recipes")
include = [pattern for root in ROOTS for pattern in (root, f"{root}.*")]
setup(packages=["lt"] + [f"lt.{package}" for package in find_namespace_packages(include=include)])
