"""Small state files of every kind, ways to damage them, how the reading and reporting of one ends.

Most damage has its checksum repaired, and much of it the digest too, so that what stands behind them is tested as well.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import zlib
from functools import cache

import commands
import numpy as np

from streamloss.errors import DataError
from streamloss.options import Options, Task
from streamloss.quantities import plan
from streamloss.reading.source import open_input
from streamloss.running.measure import Accumulator
from streamloss.slices import Settled, kept
from streamloss.state import MAGIC, State, _unpacked, layout, normalize

HEADER = len(MAGIC) + 8
MOST = 64 << 20  # bytes of arrays that are made to have their digest worked out
FORMATS = ("json", "json", "json", "terminal", "markdown", "csv")


def opened(data):
    """A state file's header and its packed arrays."""
    stop = HEADER + int.from_bytes(data[len(MAGIC) : HEADER], "little")
    return json.loads(data[HEADER:stop]), data[stop:-32]


def sealed(header, packed):
    """A state file whose checksum is right, so that only its content can be refused."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = MAGIC + len(text).to_bytes(8, "little") + text + packed
    return body + hashlib.sha256(body).digest()


def state_of(arrays, number=0, **options):
    """The state of arrays, as if it were of a file of this number."""
    asked = Options.of(on_invalid="skip", **options)
    source = open_input(arrays, asked)
    accumulator = Accumulator(source.task, asked, 1)
    for batch in source.stream():
        accumulator.add(batch)
    state = accumulator.state()
    state.columns = dict(source.roles)
    path = f"in/{number}.parquet"
    rows = len(next(iter(arrays.values())))
    state.inputs = [{"path": path, "bytes": 100, "rows": rows, "identity": f"/in/{number} (100 bytes, modified {number})"}]
    return state


def _made(r):
    """Rows of every kind, and the options they are added up under."""
    n = 30
    z = r.normal(size=(n, 3)) * 5
    z[r.random((n, 3)) < 0.1] = -np.inf
    y, w, bits = r.integers(-1, 3, n), r.random(n), r.integers(0, 2, n)
    p = r.integers(-1, 9, n) / 8
    group = np.array(["a", "b", "", "ü"])[r.integers(0, 4, n)]
    number = r.integers(-2, 3, n)
    huge = -np.ldexp(r.random(n) + 0.5, r.integers(-900, 900, n))
    classes = {"logits": z, "label": y, "g": group, "n": number, "c": np.arange(n) // 2}
    few = {"metrics": "cross_entropy,accuracy"}
    return [
        ({"logits": z, "label": y, "weight": w}, {"ignore_index": -1}),
        ({"prob": p, "label": bits}, {}),
        ({"prob": p, "label": bits / 2, "weight": w}, {"metrics": "cross_entropy,label_entropy,ece"}),
        ({"logprob": huge, "weight": w * 9, "bytes": number + 2}, {}),
        ({"logits": z, "target_logits": z[::-1], "label": y}, {"metrics": "kl_divergence,same_top,accuracy"}),
        (classes, few | {"by": ["g", "g,n"], "cluster": "c"}),
        (classes | {"weight": w}, few | {"by": ["n"], "max_slices": 2}),
        ({"logprob": huge, "g": group}, {"by": ["g"], "metrics": "cross_entropy"}),
        ({"logits": np.nan_to_num(z, neginf=-9), "label": y, "g": group}, few | {"temperatures": "0.5,2", "by": ["g"]}),
        ({"logits": z, "label": y, "weight": w}, few | {"convention": "torch,keras,caffe", "ignore_index": -1}),
        ({"logits": r.normal(size=(n, 70)), "label": r.integers(0, 70, n), "g": group}, few | {"by": ["g"], "top_k": [1, 3]}),
        ({"probs": np.full((n, 2), 0.5), "label": bits}, {"metrics": "ece,mutual_information,label_entropy", "bins": 7}),
        ({"prob": np.full(n, -1.0), "label": bits}, few),  # nothing but bad rows
    ]


@cache
def states():
    """Of every kind two states that merge."""
    pairs = zip(_made(np.random.default_rng(3)), _made(np.random.default_rng(4)), strict=True)
    return [(state_of(one[0], 1, **one[1]), state_of(two[0], 2, **two[1])) for one, two in pairs]


def seeds(folder):
    """The states of every kind as files, with the one that each may be merged with."""
    return [(one.to_bytes(), {"kind": i, "form": "json", "merged": i % 2 == 0}) for i, (one, _) in enumerate(states())]


# ---- damage


def hostile(rng):
    """A value that no header has there."""
    return rng.choice(
        [
            *(None, True, False, 0, 1, -1, 2, 3, 7, 15, 100, 2**31, 2**40, 2**63, 10**30, 10**400),
            *(0.5, -0.0, 1e308, math.nan, math.inf, -math.inf),
            *("", "a", "json", "logits", "\x1b[31m", "a\nb", "\ud800", "x" * 10_000, "soft", "hard", "binary", "pair"),
            *([], {}, [[]], [None], [1, 2], ["a"], [["a"]], {"path": None}, {"path": "a", "bytes": "x", "rows": []}),
            rng.getrandbits(64),
        ]
    )


def _places(value, above=()):
    """Where every value of a header stands: the keys that lead to it."""
    found = [above] if above else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        found += _places(each, (*above, key))
    return found


def edit_header(rng, header, other):
    """Something of the header is another value, gone, named otherwise, or that of another header."""
    where = rng.choice(_places(header))
    place = header
    for key in where[:-1]:
        place = place[key]
    key, how = where[-1], rng.random()
    if how < 0.5:
        old = place[key]
        near = [old + 1, old - 1, 2 * old, -old, old / 2, str(old)] if type(old) in (int, float) else []
        place[key] = rng.choice(near) if near and rng.random() < 0.5 else hostile(rng)
    elif how < 0.65:
        del place[key]
    elif how < 0.75 and isinstance(place, dict):
        place[rng.choice(["temperature", "bins", "by", "quantiles", "metrics", "classes", "zero", "more"])] = hostile(rng)
    elif how < 0.85 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), copy.deepcopy(place[key]) if rng.random() < 0.5 else hostile(rng))
    else:
        name = rng.choice(sorted(header))
        header[name] = copy.deepcopy(other.get(name))


def repaired(header, packed):
    """The header with the digest of what it describes, where that can be worked out."""
    try:
        task, options = Task(**header["task"]), Options.of(**header["options"])
        groups = kept(task, options, plan(task, options))
        if len(groups) > 100 or task.classes > 100_000:
            return header
        shapes = [{name: shape for name, (_, shape) in layout(task, options).items()}]
        shapes += [Settled.expected(task, o, p, each) for (_, p, o), each in zip(groups, header["slices"], strict=True)]
        if sum(8 * math.prod(shape) for each in shapes for shape in each.values()) > MOST:
            return header
        arrays = _unpacked(packed, shapes)
        slices = []
        for (_, p, o), each, own in zip(groups, header["slices"], arrays[1:], strict=True):
            slices.append(Settled(task, o, p, tuple(each["by"]), [tuple(key) for key in each["keys"]], own))
        return header | {"digest": State(task, options, arrays[0], slices).digest}
    except Exception:  # it makes no sense, and whoever reads it is to say so
        return header


def edit_array(rng, state):
    """A state some of whose numbers are others, or stand elsewhere."""
    arrays, slices = dict(state.arrays), list(state.slices)
    at = rng.randrange(-2, len(slices))
    if at >= 0:
        old = slices[at]
        own = dict(old.arrays)
        slices[at] = Settled(old.task, old.options, old.plan, old.by, _edit_keys(rng, old.keys), own)
    else:
        own = arrays
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(name for name in own if own[name].size))
        array = own[name].astype(np.int64)
        flat, filled = array.reshape(-1), np.flatnonzero(array)
        place = int(rng.choice(filled.tolist())) if len(filled) and rng.random() < 0.7 else rng.randrange(array.size)
        value, how = int(flat[place]), rng.random()
        if how < 0.6:
            near = (value + 1, value - 1, 2 * value, value << 20, -value, 0)
            far = (2**31, 2**32 - 1, 2**40 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), -1, rng.getrandbits(rng.randrange(1, 63)))
            number = rng.choice(near if rng.random() < 0.5 else far)
            flat[place] = (number + (1 << 63)) % (1 << 64) - (1 << 63)
        elif how < 0.75:
            flat[:] = np.roll(flat, rng.choice([1, -1, 7]))
        elif how < 0.85:
            array[rng.randrange(len(array))] = array[rng.randrange(len(array))]
        elif how < 0.95:
            array[rng.randrange(len(array))] = 0
        else:
            flat[:] = 0
        own[name] = array
    if at < 0 and rng.random() < 0.5:
        with np.errstate(all="ignore"):
            normalize(arrays, layout(state.task, state.options))
    return State(state.task, state.options, arrays, slices, state.columns, state.inputs)


def _edit_keys(rng, keys):
    keys = list(keys)
    if keys and rng.random() < 0.3:
        at = rng.randrange(len(keys))
        keys[at] = rng.choice([(), keys[0], keys[-1], tuple(rng.choice([None, True, 3, "x", 2**70]) for _ in keys[at])])
    return keys


def bomb(rng, packed):
    """Arrays with more behind them, cut, packed otherwise, or blown up."""
    raw = zlib.decompress(packed)
    return rng.choice(
        [
            lambda: zlib.compress(raw + bytes(rng.choice([1, 8, 1 << 20, MOST]))),
            lambda: zlib.compress(bytes(rng.choice([0, 8, len(raw), MOST]))),
            lambda: packed[: rng.randrange(len(packed))],
            lambda: packed + rng.randbytes(rng.randint(1, 50)),
            lambda: packed + packed,
            lambda: zlib.compress(raw[: rng.randrange(len(raw))]),
            lambda: zlib.compress(raw, 0),
            lambda: raw,
        ]
    )()


def spoil(rng, data):
    """Bytes that are others, more or fewer."""
    data = bytearray(data)
    at, how = rng.randrange(len(data)), rng.random()
    if how < 0.4:
        data[at] ^= 1 << rng.randrange(8)
    elif how < 0.6:
        del data[at:]
    elif how < 0.75:
        data += rng.choice([b"\0", bytes(100), bytes(data)])
    elif how < 0.9:
        size = rng.randint(1, 40)
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
    else:
        del data[at : at + rng.randint(1, 40)]
    return bytes(data)


def damaged(rng, files):
    """One of the states with something wrong."""
    number = rng.randrange(len(files))
    data, options = files[number]
    other = files[rng.randrange(len(files))][0]
    how = rng.random()
    if how < 0.1:
        data = spoil(rng, data)
    elif how < 0.2:
        body = spoil(rng, data[:-32])
        data = body + hashlib.sha256(body).digest()
    elif how < 0.55:
        header, packed = opened(data)
        for _ in range(rng.choice([1, 1, 2])):
            edit_header(rng, header, opened(other)[0])
        data = sealed(repaired(header, packed) if rng.random() < 0.6 else header, packed)
    elif how < 0.6:
        header, packed = opened(data)
        text, deep = json.dumps(header).encode(), rng.choice([100, 900, 3000, 100_000])
        at = rng.choice([i for i, byte in enumerate(text) if byte in b":,"]) + 1
        inside = rng.choice(
            [b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b"9" * deep, b"1e999", b"[" * deep]
        )
        stop = min(i for i in (text.find(b",", at), text.find(b"}", at), len(text)) if i >= 0)
        data = sealed(text[:at] + inside + text[rng.choice([at, stop]) :], packed)
    elif how < 0.92:
        data = edit_array(rng, states()[number][0]).to_bytes()
    elif how < 0.97:
        header, packed = opened(data)
        data = sealed(header, bomb(rng, packed))
    else:
        header, packed = opened(data)
        data = sealed(*((opened(other)[0], packed) if rng.random() < 0.5 else (header, opened(other)[1])))
    more = {"form": rng.choice(FORMATS), "merged": rng.random() < 0.25}
    if rng.random() < 0.02:
        more["form"] = "html"
    return data, options | more


# ---- how it ends


def words(path, options):
    """The command line that reports it, with the state it goes with if it is to be merged."""
    given = ["report", str(path), "--format", options["form"]]
    if options["merged"]:
        other = path.with_name("other.state")
        other.write_bytes(states()[options["kind"]][1].to_bytes())
        given.insert(1 + options["kind"] % 2, str(other))  # before it or behind
    return given, None


def _load(path, options):
    """'read' and the digest, which must be the one that the file names, or the error's line."""
    data = path.read_bytes()
    try:
        state = State.from_bytes(data, str(path))
    except DataError as error:
        line = str(error)
        assert "\n" not in line
        assert line.startswith(f"{path}: ")
        return line
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    named = opened(data)[0]["digest"]
    again = State.from_bytes(state.to_bytes())
    alone = state.merged(State.empty(state.task, state.options))
    assert state.digest == again.digest == alone.digest == named
    return f"read {named}"


def _report(path, options):
    ended = commands.end(*words(path, options)[0])
    if ended.startswith("read ") and not options["merged"]:
        assert ended == f"read {opened(path.read_bytes())[0]['digest']}"
    return ended


WAYS = {"load": _load, "report": _report}


def judge(ends):
    """What is no state has no report, and a state's report has its digest."""
    load, report = (ends[way] for way in WAYS)
    if report.startswith("read") and not load.startswith("read"):
        return ["reported what is no state"]
    return []
