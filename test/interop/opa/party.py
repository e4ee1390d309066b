"""An application that asks an OPA, by the client library of PyPI, and knows
nothing of Kith. It prints one line for each answer: see opa_test.go.
"""

import asyncio
import json
import sys

from opa_client import AsyncOpaClient, OpaClient

PATIENCE = 60.0


def say(what, value):
    print(what, json.dumps(value, sort_keys=True), flush=True)


def asked(method, *path):
    return {"user": "web", "method": method, "path": list(path), "token": "of no interest"}


def sync(port):
    with OpaClient(host="127.0.0.1", port=port, timeout=PATIENCE) as client:
        say("connection", client.check_connection())
        say("health", client.check_health())
        say("policies", client.get_policies_list())
        for what, question in (
            ("may", asked("GET", "v1", "orders", "17")),
            ("may-not", asked("DELETE", "v1", "orders", "17")),
            ("traversal", asked("GET", "v1", "orders", "..", "admin")),
        ):
            say(what, client.query_rule(question, "httpapi.authz", "allow")["result"])
        whole = client.query_rule(asked("GET", "v1", "orders", "17"), "httpapi.authz")
        say("package", whole["result"]["allow"])
        params = {"explain": "full", "metrics": True, "pretty": True, "provenance": True}
        more = client.query_rule(asked("GET", "v1", "orders", "17"), "httpapi.authz", "allow", params)
        say("parameters", [more["result"], "metrics" in more, "provenance" in more])
        say("undefined", client.query_rule({}, "no.such", "rule"))
        say("data", client.get_data("httpapi/authz/allow")["result"])


async def again(port):
    async with AsyncOpaClient(host="127.0.0.1", port=port, timeout=PATIENCE) as client:
        answer = await client.query_rule(asked("GET", "v1", "orders", "17"), "httpapi.authz", "allow")
        say("async", answer["result"])


if __name__ == "__main__":
    sync(int(sys.argv[1]))
    asyncio.run(again(int(sys.argv[1])))
