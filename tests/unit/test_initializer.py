"""What an initializer sets is seen by the tasks, wherever their functions come from."""

import functools
from typing import Any

from pywren_ng import Executor
from pywren_runtime import initializer


def functions(source: str, module: str = "__main__") -> dict[str, Any]:
    """The names that a piece of source defines, with globals of their own, as loading a pickle makes them."""
    variables: dict[str, Any] = {"__name__": module}
    exec(source, variables)
    return variables


SETS = "def start(x):\n    global model\n    model = x\n"
READS = "def read():\n    return model\n"


def test_a_new_global_is_handed_on() -> None:
    made = initializer.run(functions(SETS)["start"], (7,))
    read = functions(READS)["read"]
    initializer.hand_on(made, read)
    assert read() == 7


def test_what_it_set_wins_over_what_the_script_had() -> None:
    made = initializer.run(functions("model = None\n" + SETS)["start"], (7,))
    read = functions("model = None\n" + READS)["read"]
    initializer.hand_on(made, read)
    assert read() == 7


def test_what_it_did_not_set_is_the_functions_own() -> None:
    made = initializer.run(functions("other = 1\n" + SETS)["start"], (7,))
    read = functions("other = 2\ndef read():\n    return other\n")["read"]
    initializer.hand_on(made, read)
    assert read() == 2


def test_another_module_gets_nothing() -> None:
    made = initializer.run(functions(SETS, "one")["start"], (7,))
    read = functions("model = 'own'\n" + READS, "two")["read"]
    initializer.hand_on(made, read)
    assert read() == "own"


def test_partials_are_looked_into_and_builtins_have_no_globals() -> None:
    made = initializer.run(functools.partial(functions(SETS)["start"], 7), ())
    read = functions(READS)["read"]
    initializer.hand_on(made, functools.partial(read))
    initializer.hand_on(made, len)
    assert read() == 7
    assert initializer.run(len, ([],)) == {}


def test_through_a_worker_and_in_every_job() -> None:
    script = functions("model = None\n" + SETS + READS + "add = lambda value: value + read()\n")
    with Executor(max_workers=1, initializer=script["start"], initargs=(7,)) as ex:
        assert [ex.submit(script["read"]).result() for _ in range(2)] == [7, 7]
        assert list(ex.map(script["add"], [1, 2])) == [8, 9]
