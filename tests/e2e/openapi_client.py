"""Holds what /openapi.json says of the admin API's requests to what the port does: ADMIN_URL TOKEN.

Each body is sent in its least form, and then with each field in turn at and past every bound that
the document names. What the document allows must be taken, what it forbids must be 400. Run by
admin_document.rs, or by hand.
"""

import itertools
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

url, token = sys.argv[1:]
names = (f"doc-{os.getpid()}-{number}" for number in itertools.count())


def call(method, path, *body):
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = json.dumps(*body).encode() if body else None
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


document = call("GET", "/openapi.json")[1]


def followed(schema):
    while "$ref" in schema:
        at = document
        for part in schema["$ref"].split("/")[1:]:
            at = at[part]
        schema = at | {key: value for key, value in schema.items() if key != "$ref"}
    return schema


TYPES = {
    "null": lambda it: it is None,
    "boolean": lambda it: isinstance(it, bool),
    "integer": lambda it: isinstance(it, (int, float)) and not isinstance(it, bool) and it % 1 == 0,
    "string": lambda it: isinstance(it, str),
    "array": lambda it: isinstance(it, list),
    "object": lambda it: isinstance(it, dict),
}
CHECKS = {
    "type": lambda it, kinds: any(
        TYPES[kind](it) for kind in (kinds if isinstance(kinds, list) else [kinds])
    ),
    "const": lambda it, value: it == value,
    "enum": lambda it, values: it in values,
    "minimum": lambda it, least: not TYPES["integer"](it) or it >= least,
    "maximum": lambda it, most: not TYPES["integer"](it) or it <= most,
    "minLength": lambda it, least: not isinstance(it, str) or len(it) >= least,
    "maxLength": lambda it, most: not isinstance(it, str) or len(it) <= most,
    "pattern": lambda it, text: not isinstance(it, str)
    or re.search(re.sub(r"\$$", r"\\Z", text), it, re.ASCII) is not None,
    "minItems": lambda it, least: not isinstance(it, list) or len(it) >= least,
    "maxItems": lambda it, most: not isinstance(it, list) or len(it) <= most,
    "uniqueItems": lambda it, _: not isinstance(it, list) or len(set(it)) == len(it),
    "items": lambda it, schema: not isinstance(it, list) or all(allows(schema, x) for x in it),
    "required": lambda it, fields: not isinstance(it, dict) or all(f in it for f in fields),
    "anyOf": lambda it, schemas: any(allows(schema, it) for schema in schemas),
    "oneOf": lambda it, schemas: sum(allows(schema, it) for schema in schemas) == 1,
    "allOf": lambda it, schemas: all(allows(schema, it) for schema in schemas),
    "not": lambda it, schema: not allows(schema, it),
    "properties": lambda it, fields: not isinstance(it, dict)
    or all(allows(schema, it[name]) for name, schema in fields.items() if name in it),
}
SAYS_NOTHING = {"description", "default", "title", "format", "additionalProperties"}


def allows(schema, value):
    """Does the schema allow the value? A keyword that is not known here is an error."""
    schema = followed(schema)
    for keyword, wanted in schema.items():
        if keyword not in SAYS_NOTHING and not CHECKS[keyword](value, wanted):
            return False
    is_closed = schema.get("additionalProperties") is False and isinstance(value, dict)
    return not is_closed or all(name in schema["properties"] for name in value)


def parts(schema):
    """The schema and all that it is put together from."""
    schema = followed(schema)
    yield schema
    for keyword in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(keyword, []):
            yield from parts(part)


def variants(schema, good):
    """Values at and past each bound, beside those that are of another type."""
    yield from (None, True, 7, 7.0, 7.5, -1, "x", "", "\x01", [], [7], {}, {"stranger": 1})
    for part in parts(schema):
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in part:
                yield from (part[bound], float(part[bound]), part[bound] + step)
        if "maxLength" in part and isinstance(good, str):
            padded = good + "a" * part["maxLength"]
            yield from (padded[: part["maxLength"]], padded[: part["maxLength"] + 1])
        yield from part.get("enum", [])
    if isinstance(good, str):
        yield from (good + "\n", good + " ", " " + good, good + "\u00e9", good + "\u0085")
    for value in MORE.get(type(good), []):
        yield value


MORE = {
    str: [
        "http://", "https://a", "http:///x", "http://a:0", "http://a:65535", "http://a:65536",
        "http://a:080/x", "http://[::1]:80/v1", "http://[x]", "http://[1:2]", "http://[1::2:3]",
        "http://[1:2:3:4:5:6:7:8]:1/", "http://[1:2:3:4:5:6:7::]", "http://[::1.2.3.4]", "http://a/?q", "http://u@a",
        "http://a/<", "/a?b", "/a#b", "a/b", "model\"x", "Host", "Upgrade", "x-key_2",
        "2999-01-01T00:00:00Z", "2999-01-01t00:00:00.5+01:30", "2999-13-01T00:00:00Z",
        "2999-01-01T24:00:00Z", "2999-01-01", "closed", "shut",
    ],
    int: ["7", 4_000_000_000, 4_000_000_000.0, 1 << 53, 1 << 63, 1 << 64, 1e300],
}  # fmt: skip


def changed(value, schema):
    """Copies of the value with one thing changed, at any depth."""
    yield from variants(schema, value)
    if isinstance(value, dict):
        yield value | {"stranger": 1}
        for name, old in value.items():
            yield {key: it for key, it in value.items() if key != name}
            for part in parts(schema):
                for new in changed(old, part.get("properties", {}).get(name, {})):
                    yield value | {name: new}
    elif isinstance(value, list):
        for part in parts(schema):
            most = part.get("maxItems", 0)
            yield from ([value[-1]] * most, [value[-1]] * (most + 1))
            for new in changed(value[-1], part.get("items", {})):
                yield value[:-1] + [new]


PRICES = {"input_nanousd_per_mtok": 1, "output_nanousd_per_mtok": 2}
PER_TOKEN = PRICES | {"kind": "per_token", "cached_input_nanousd_per_mtok": 1}
TIERED = {"kind": "tiered", "tiers": [PRICES | {"up_to_tokens": None}]}
FLAT = {"kind": "subscription", "fee_nanousd": 1, "allowance_tokens": 1, "overage": PER_TOKEN}
PLAN = {"rate_per_s": 1, "burst": 1, "quota_tokens": 1, "when_lost": "open"}
SERVICE = {
    "base_url": "http://127.0.0.1:9/v1",
    "default_path": "/v1/x",
    "upstream_credential": {"header": "x-key", "value": "secret"},
    "enabled": False,
}
FUTURE = "2999-01-01T00:00:00Z"


def is_elsewhere(body):
    """What only the catalog or the clock can tell: the document says in words that it is 400."""
    place = body.get("price") if isinstance(body.get("price"), dict) else {}
    tiers = place.get("tiers", [])
    times = [body.get("expires_at"), body.get("effective_at")]
    return (
        body.get("plan") not in (None, "basic")
        or body.get("consumer_id") not in (None, consumer["id"])
        or any(name != service["id"] for name in body.get("services") or [])
        or any(time is not None and time not in (FUTURE, 4e9) for time in times)
        or any(tier.get("up_to_tokens") is not None for tier in tiers[-1:])
        or any(tier.get("up_to_tokens") is None for tier in tiers[:-1])
    )


def check(method, path, schema, body):
    is_named = "name" in body
    told = sent = 0
    for new in [body, *changed(body, schema)]:
        if is_named and isinstance(new, dict) and new.get("name") == body["name"]:
            new = new | {"name": next(names)}
        is_allowed = allows(schema, new)
        if is_allowed and is_elsewhere(new):
            continue
        status, answer = call(method, path, new)
        wanted = (200, 201, 404, 409) if is_allowed else (400,)
        sent += 1
        if status not in wanted:
            told += 1
            text = json.dumps(new)
            print(f"{method} {path} {text[:300]}: {status}, allowed: {is_allowed}, {answer}"[:700])
    print(f"{method} {path}: {sent} bodies, {told} wrong")
    return told


consumer = call("POST", "/admin/v1/consumers", {"name": next(names), "plan": "basic"})[1]
service = call("POST", "/admin/v1/services", SERVICE | {"name": next(names), "price": PER_TOKEN})[1]
plan = call("POST", "/admin/v1/plans", PLAN | {"name": next(names)})[1]
NONE = "0" * 12
BODIES = {
    ("post", "/admin/v1/plans"): [PLAN | {"name": ""}],
    ("patch", "/admin/v1/plans/{id}"): [PLAN],
    ("post", "/admin/v1/consumers"): [{"name": "", "plan": "basic"}],
    ("patch", "/admin/v1/consumers/{id}"): [{"name": "", "plan": "basic"}],
    ("post", "/admin/v1/keys"): [
        {
            "consumer_id": consumer["id"], "name": "", "expires_at": FUTURE,
            "services": [service["id"]],
        }
    ],
    ("post", "/admin/v1/keys/{id}/rotate"): [{"grace_s": 1}],
    ("post", "/admin/v1/services"): [
        SERVICE | {"name": "", "price": PER_TOKEN},
        SERVICE | {"name": "", "price": TIERED, "upstream_credential": "secret"},
    ],
    ("patch", "/admin/v1/services/{id}"): [SERVICE],
    ("post", "/admin/v1/services/{id}/prices"): [
        {"price": price, "effective_at": FUTURE} for price in (PER_TOKEN, TIERED, FLAT)
    ],
}  # fmt: skip
IDS = {"plans": plan["id"], "consumers": consumer["id"], "services": service["id"], "keys": NONE}

wrong, left = 0, set(BODIES)
for path, item in document["paths"].items():
    for method in ("post", "put", "patch", "delete"):
        if not path.startswith("/admin/") or "requestBody" not in item.get(method, {}):
            continue
        left.discard((method, path))
        schema = item[method]["requestBody"]["content"]["application/json"]["schema"]
        at = path.replace("{id}", IDS[path.split("/")[3]])
        for body in BODIES[method, path]:
            if "name" in body:
                body = body | {"name": next(names)}
            wrong += check(method.upper(), at, schema, body)
assert not left, f"the document has no {left}"


def read(schema, text):
    """A parameter's text as the value that its schema speaks of."""
    schema = followed(schema)
    if schema["type"] == "array":
        return text.split(",") if text else []
    is_number = schema["type"] == "integer" and re.fullmatch("-?(0|[1-9][0-9]*)", text)
    return int(text) if is_number else text


TEXTS = [
    "", "0", "00", "01", "+1", "-1", "1", "7", "1000", "1001", "10000", "10001", "1.0", "x",
    "9" * 18, "9" * 19, "day", "day,consumer", "day,day", "day,x", "2030-01-31", "2030-13-31",
    "2030-01-31T00:00:00Z", "2030-01-31T00:00:00", "2030-01-31T25:00:00Z", NONE, "0" * 13,
]  # fmt: skip
for path, item in document["paths"].items():
    for parameter in item.get("get", {}).get("parameters", []) if "/admin/" in path else []:
        parameter = followed(parameter)
        at = path.replace("{id}", service["id"]) + "?" + parameter["name"] + "="
        for text in TEXTS:
            status, answer = call("GET", at + urllib.parse.quote(text))
            is_allowed = allows(parameter["schema"], read(parameter["schema"], text))
            if (status == 200) != is_allowed or status not in (200, 400):
                wrong += 1
                print(f"GET {at}{text}: {status}, allowed: {is_allowed}, {answer}")

assert wrong == 0, f"{wrong} answers are not as the document says"
print("as described")
