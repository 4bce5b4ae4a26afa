#!/usr/bin/env python3
"""Records what an MCP server lists, without a network and without credentials.

    record.py NAME PACKAGE VERSION LICENCE -- COMMAND...

The server runs as a child in a network namespace of its own with nothing of the environment but PATH and a home that is
empty. A server that does not start without a key is given the word `placeholder` by naming the variable before the command:
`-- KEY=placeholder COMMAND...`. Writes NAME.json beside this file.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading


def ask(child, request):
    child.stdin.write((json.dumps(request) + "\n").encode())
    child.stdin.flush()
    while "id" in request:
        line = child.stdout.readline()
        if not line:
            sys.exit("the server ended without an answer")
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if answer.get("id") == request["id"] and "method" not in answer:
            return answer["result"]


def main():
    words = sys.argv[1:]
    at = words.index("--")
    name, package, version, licence = words[:at]
    command = words[at + 1 :]
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home}
        while "=" in command[0]:
            key, value = command.pop(0).split("=", 1)
            environment[key] = value
        child = subprocess.Popen(
            ["unshare", "-n", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(os.path.join(home, "log"), "wb"),
            env=environment,
            cwd=home,
        )
        watchdog = threading.Timer(40, child.kill)
        watchdog.start()
        try:
            params = {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "record", "version": "1"},
            }
            ask(child, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
            ask(child, {"jsonrpc": "2.0", "method": "notifications/initialized"})
            tools, cursor = [], None
            while True:
                params = {"cursor": cursor} if cursor else {}
                page = ask(child, {"jsonrpc": "2.0", "id": len(tools) + 1, "method": "tools/list", "params": params})
                tools += page["tools"]
                cursor = page.get("nextCursor")
                if not cursor:
                    break
        except BaseException:
            sys.stderr.write(open(os.path.join(home, "log"), errors="replace").read()[-1500:])
            raise
        finally:
            watchdog.cancel()
            child.kill()
            child.wait()
    kept = ("name", "title", "description", "inputSchema")
    tools = [{key: it[key] for key in kept if key in it} for it in tools]
    record = {"server": name, "package": package, "version": version, "licence": licence, "tools": tools}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".json")
    with open(path, "w", encoding="utf-8") as out:
        json.dump(record, out, ensure_ascii=False, indent=1)
        out.write("\n")
    print(f"{name}: {len(tools)} tools")


main()
