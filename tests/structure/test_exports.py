"""`__all__` is what a module defines and exports; `import plait` gives what it promises."""

from __future__ import annotations

import importlib

import pytest

from tools.source_tree import sources

OPTIONAL = ("plait.interop.torch",)  # needs PyTorch
MODULES = [s.module for s in sources() if not s.module.startswith(OPTIONAL)]


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist_once_and_are_sorted_or_grouped(name):
    if name.endswith("__main__"):
        pytest.skip("a program, not a module")
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", ()))
    assert len(names) == len(set(names)), f"{name}.__all__ names something twice"
    missing = [n for n in names if not hasattr(module, n)]
    assert not missing, f"{name}.__all__ names what is not there: {missing}"


def test_every_public_name_of_the_front_package_resolves():
    plait = importlib.import_module("plait")
    missing = [n for n in plait.__all__ if not hasattr(plait, n)]
    assert not missing


def test_compile_is_the_function_even_after_its_module_was_imported():
    plait = importlib.import_module("plait")
    importlib.import_module("plait.compile")
    assert callable(plait.compile)
    assert not hasattr(plait.compile, "__path__")
    assert plait.compile.__module__ == "plait.compile"


def test_unknown_name_is_an_attribute_error():
    plait = importlib.import_module("plait")
    with pytest.raises(AttributeError, match="no attribute 'weave'"):
        plait.weave
