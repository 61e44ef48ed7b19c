"""What is known never to travel, and what to do about each."""

from dataclasses import KW_ONLY, dataclass
from types import FunctionType, ModuleType


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of object that never travels, known by the qualified names of its classes."""

    names: str  # their beginnings: "asyncio." is the whole module
    _: KW_ONLY
    noun: str = ""  # where the type's name does not say it
    advice: str


KINDS = (
    Kind(
        "_thread.lock _thread.RLock threading.Lock threading.RLock",
        advice="Create it inside the function{getstate}.",
    ),
    Kind(
        "threading.Condition threading.Event threading.Semaphore threading.Barrier",
        noun="it holds a lock",
        advice="Create it inside the function{getstate}.",
    ),
    Kind(
        "threading.Thread _thread._local _thread._ThreadHandle subprocess.Popen multiprocessing.",
        noun="it belongs to this process",
        advice="Start it inside the function{getstate}.",
    ),
    Kind(
        "socket. _socket. ssl. _ssl. select. http.client.HTTPConnection http.client.HTTPResponse",
        noun="a network connection",
        advice="Open it inside the function, from its address{getstate}.",
    ),
    Kind(
        "sqlite3. psycopg pymysql. MySQLdb. mysql.connector oracledb. pyodbc. duckdb. _duckdb. pymongo. "
        "redis. sqlalchemy.engine sqlalchemy.orm.session botocore.client boto3.resources",
        noun="a database or service connection",
        advice="Open it inside the function, from its path or address{getstate}.",
    ),
    Kind(
        "_io.FileIO _io.Buffered _io.TextIOWrapper tempfile._Temporary mmap.mmap gzip.GzipFile bz2.BZ2File "
        "lzma.LZMAFile zipfile.ZipFile tarfile.TarFile",
        noun="an open file",
        advice="Pass its path and open it inside the function{getstate}.",
    ),
    Kind(
        "builtins.generator builtins.async_generator builtins.map builtins.zip builtins.filter itertools.",
        advice="It can be run only once and only in this process. Send list(...) of it instead.",
    ),
    Kind("builtins.coroutine", advice="Await it first, or send the function that makes it and call it there."),
    Kind(
        "builtins.frame builtins.traceback",
        advice="Send its text instead, as traceback.format_exception() gives it.",
    ),
    Kind("builtins.memoryview", advice="Send bytes(...) of it while it is open."),
    Kind("weakref.", noun="a weak reference", advice="Send the object itself{getstate}."),
    Kind(
        "queue. _queue.",
        noun="a queue between threads",
        advice="Send list(...) of its items, or create it inside the function.",
    ),
    Kind(
        "asyncio. _asyncio. uvloop.",
        noun="it belongs to an event loop",
        advice="Create it inside the function, under that function's own asyncio.run(){getstate}.",
    ),
    Kind("concurrent.futures._base.Future", advice="Send its result() instead."),
    Kind("pywren_ng.job.Job", noun="it belongs to its executor", advice="Send its results() instead."),
    Kind("concurrent.futures._base.Executor", noun="an executor", advice="Make another inside the function."),
    Kind(
        "logging.Handler",
        noun="it holds a lock and a stream",
        advice="Use logging.getLogger(name) inside the function: loggers travel by name{getstate}.",
    ),
    Kind("_contextvars.", noun="a value of this thread", advice="Send what its get() returns."),
    Kind(
        "_ctypes. ctypes.",
        noun="memory of this process",
        advice="Send a copy of what it points to, as bytes or an array.",
    ),
)
UNKNOWN = Kind("", advice="Create it inside the function, from values that travel{getstate}.")


def kind_of(value: object) -> Kind | None:
    """The sort of thing that never travels which this is one of, if any."""
    if issubclass(type(value), type | FunctionType | ModuleType | BaseException):
        return None
    classes = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(value).__mro__]
    return next((kind for kind in KINDS if any(cls.startswith(tuple(kind.names.split())) for cls in classes)), None)
