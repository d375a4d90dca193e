import enum
import inspect
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.base import config as config_module
from plait.base import errors, log
from plait.base.config import Config, config
from plait.base.hashing import KeyBuilder, canonical_text, explain_difference
from plait.base.names import NameScope, identifier
from plait.base.registry import Registry

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_a_plait_error_exported_documented_and_drawn(cls):
    assert issubclass(cls, errors.PlaitError)
    assert cls.__name__ in errors.__all__ and cls.__doc__
    assert cls.__name__ in errors.__doc__
    if cls is not errors.PlaitError:
        builtin = cls.__mro__[2]
        line = next(x for x in errors.__doc__.splitlines() if x.split()[:1] == [cls.__name__])
        assert line.split()[1] == builtin.__name__


def test_check_builds_its_message_only_when_it_fails():
    errors.check(True, errors.ShapeMismatch, lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="no fit"):
        errors.check(0, errors.ShapeMismatch, lambda: "no fit")


def test_backend_failure_names_backend_and_inner_error():
    error = errors.BackendCompilerFailed("llvm", ValueError("bad"))
    assert str(error) == "backend 'llvm' failed: ValueError: bad"
    assert error.backend_name == "llvm" and isinstance(error.inner, ValueError)


def test_config_reads_the_environment_once(monkeypatch):
    monkeypatch.setenv("PLAIT_NUM_THREADS", "3")
    monkeypatch.setenv("PLAIT_VERIFY", "yes")
    monkeypatch.setenv("PLAIT_LOG", "recompile, fallback")
    fresh = Config()
    assert (fresh.num_threads, fresh.verify) == (3, True)
    assert fresh.log == {"recompile", "fallback"}
    monkeypatch.setenv("PLAIT_NUM_THREADS", "5")
    assert fresh.num_threads == 3
    del fresh.num_threads
    assert fresh.num_threads == 5


@pytest.mark.parametrize(
    "name, text",
    [("NUM_THREADS", "0"), ("VERIFY", "maybe"), ("OPT_LEVEL", "4"), ("VECTOR_BITS", "7")],
)
def test_config_refuses_bad_text_and_names_the_variable(monkeypatch, name, text):
    monkeypatch.setenv(f"PLAIT_{name}", text)
    with pytest.raises(errors.InvalidArgument, match=f"PLAIT_{name}"):
        getattr(Config(), name.lower())


def test_config_defaults(monkeypatch):
    for setting in Config.settings().values():
        monkeypatch.delenv(setting.variable, raising=False)
    fresh = Config()
    assert fresh.num_threads >= 1 and fresh.opt_level == 3 and fresh.verify is False
    assert fresh.cache_dir.endswith("plait")
    assert all(setting.doc and setting.name == name for name, setting in Config.settings().items())


def test_config_quota(monkeypatch, tmp_path):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(config_module, "Path", lambda _: limit)
    assert config_module._quota() is None
    limit.write_text("max 100000\n")
    assert config_module._quota() is None
    limit.write_text("150000 100000\n")
    assert config_module._quota() == 2


def test_config_override_restores_and_unknown_settings_are_refused():
    before = config.opt_level
    with pytest.raises(ZeroDivisionError), config.override(opt_level=0, vector_bits=256):
        assert (config.opt_level, config.vector_bits) == (0, 256)
        raise ZeroDivisionError
    assert config.opt_level == before
    with pytest.raises(errors.InvalidArgument, match="threads"):
        config.threads = 2
    with pytest.raises(errors.InvalidArgument), config.override(opt_level=1, nothing=1):
        pass
    assert config.opt_level == before


def test_registry():
    registry = Registry[int]("backend")
    registry.register("llvm", 1)
    registry.register("llvm", 1)
    with pytest.raises(errors.RegistrationError, match="registered already"):
        registry.register("llvm", 2)
    registry.register("llvm", 2, replace=True)
    registry.register("interpreter", 3)
    assert registry.get("llvm") == 2 and "llvm" in registry and len(registry) == 2
    assert registry.names() == tuple(registry) == ("llvm", "interpreter")
    assert registry.items() == (("llvm", 2), ("interpreter", 3))
    with pytest.raises(errors.InvalidArgument, match="no backend 'lvm'; did you mean 'llvm'"):
        registry.get("lvm")
    with pytest.raises(errors.InvalidArgument, match="known: llvm, interpreter"):
        registry.get("zzz")
    assert registry.unregister("llvm") == 2 and "llvm" not in registry


@given(st.lists(st.text(max_size=8)))
def test_names_are_unique_identifiers(wanted):
    scope = NameScope(reserved=["x"])
    names = [scope.fresh(text) for text in wanted]
    assert len({*names, "x"}) == len(names) + 1
    assert all(name.isidentifier() and identifier(name) == name for name in names)


def test_names_keep_what_they_can():
    scope = NameScope()
    assert [scope.fresh("a.b") for _ in range(3)] == ["a_b", "a_b_1", "a_b_2"]
    assert "a_b_1" in scope and scope.fresh("a_b_1") == "a_b_1_1"


@dataclass
class Point:
    x: int
    tags: tuple[str, ...]


class Colour(enum.Enum):
    RED = 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def tag(value):
    """Equal exactly when value and type are: 1 and True differ, orders of dictionaries do not."""
    if isinstance(value, dict):
        return ("dict", frozenset((k, tag(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, tuple(map(tag, value)))
    return (type(value).__name__, value)


@given(PLAIN, PLAIN)
def test_canonical_text_is_equal_for_equal_values_only(a, b):
    assert (canonical_text(a) == canonical_text(b)) == (tag(a) == tag(b))


def test_canonical_text_of_records_and_refusal():
    assert canonical_text(Point(1, ("a",))) == "Point(x=1,tags=('a',),)"
    assert canonical_text({3, 1}) == canonical_text(frozenset((1, 3))) == "{1,3,}"
    assert canonical_text(Colour.RED) == "Colour.RED"
    with pytest.raises(errors.ArgumentTypeError, match="object"):
        canonical_text(object())


def test_keys_and_their_explanation():
    def build(**parts):
        builder = KeyBuilder()
        for name, value in parts.items():
            builder.add(name, value)
        return builder

    a, b = build(level=3, cpu="zen4"), build(level=3, cpu="zen5")
    assert a.key() == build(level=3, cpu="zen4").key() != b.key()
    assert explain_difference(a, a) is None
    assert explain_difference(a, b) == "ingredient 'cpu' differs: 'zen4' against 'zen5'"
    assert "only in the first" in explain_difference(a, build(level=3))
    assert "only in the second" in explain_difference(build(level=3), a.ingredients())
    assert "order" in explain_difference(a, build(cpu="zen4", level=3))
    assert "..." in explain_difference(build(text="x" * 99), build(text="y" * 99))
    with pytest.raises(errors.InvalidArgument, match="'level'"):
        a.add("level", 1)


def test_log_keeps_filters_and_prints(capsys):
    log.clear()
    with config.override(log=frozenset()):
        log.record("fallback", "no kernel", op="aten::add")
        log.record("recompile", "size changed")
    assert [event.kind for event in log.events()] == ["fallback", "recompile"]
    (event,) = log.events("fallback")
    assert (
        str(event) == "fallback: no kernel (op='aten::add')" and event.fields["op"] == "aten::add"
    )
    assert capsys.readouterr().err == ""
    with config.override(log=frozenset({"recompile"})):
        log.record("recompile", "again")
        log.record("fallback", "quiet")
    assert capsys.readouterr().err == "[plait] recompile: again\n"
    log.clear()
    assert log.events() == []


def test_log_is_bounded():
    for number in range(log.CAPACITY + 5):
        log.record("test", str(number))
    assert len(log.events()) == log.CAPACITY and log.events()[0].reason == "5"
    log.clear()
