"""A client of the protocol as the conformance suite wants one, but with the gateway in between.

The suite gives the URL of its server as the last argument and names the scenario. This starts `mcp-orch` (MCP_ORCH)
with that server behind it, and does through it what the scenario is about, as a client of the same revision. It fails
when an answer is missing or wrong, so that no scenario passes by doing nothing.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENARIO = os.environ["MCP_CONFORMANCE_SCENARIO"]
VERSION = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
# A client of the other era, for what the gateway has to translate.
VERSION = os.environ.get("DOWNSTREAM_VERSION", VERSION)
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
IS_MODERN = VERSION >= "2026-07-28"
CAPABILITIES = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
PREFIX = "judge__"
PATIENCE = 20.0


class Gateway:
    def __init__(self, url, home):
        self.home = Path(home)
        config = {"mcpServers": {"judge": {"url": url}}}
        (self.home / "mcp-config.json").write_text(json.dumps(config))
        self.log = open(self.home / "log", "wb")
        command = [os.environ["MCP_ORCH"], "serve", "--port", "0", "--no-auth", "--data-dir", home]
        command += ["--mcp-config", str(self.home / "mcp-config.json")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.port = self.until("a port", self.port_of)
        self.until("the server behind", self.is_ready)

    def port_of(self):
        try:
            lock = json.loads((self.home / "lock").read_text())
        except (OSError, ValueError):
            return None
        return lock.get("port") if lock.get("pid") == self.process.pid else None

    def is_ready(self):
        try:
            servers = self.rest("/servers")["servers"]
        except OSError:
            return False
        return any(it["name"] == "judge" and it["state"] == "ready" for it in servers)

    def rest(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    def until(self, what, look):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = look()
            if seen:
                return seen
            time.sleep(0.05)
        self.log.flush()
        raise SystemExit(f"not {what} in time:\n{(self.home / 'log').read_text()[-4000:]}")

    def end(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Client:
    """Frames over streamable HTTP, and always the same answers."""

    def __init__(self, port):
        self.port = port
        self.session = None
        self.n_sent = 0

    def post(self, frame):
        """All messages of the response."""
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        params = frame.get("params", {})
        if IS_MODERN:
            headers["mcp-protocol-version"] = VERSION
            headers["mcp-method"] = frame.get("method", "")
            name = params.get("name") or params.get("uri")
            if name:
                headers["mcp-name"] = name
            headers.update(self.mirrored(params))
        elif self.session:
            headers |= {"mcp-session-id": self.session, "mcp-protocol-version": VERSION}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/mcp", json.dumps(frame), headers)
        response = connection.getresponse()
        self.session = response.getheader("mcp-session-id") or self.session
        if "text/event-stream" not in (response.getheader("content-type") or ""):
            body = response.read()
            if body.strip():
                yield json.loads(body)
            return
        for line in response:
            if line.startswith(b"data:") and line[5:].strip():
                yield json.loads(line[5:])

    def mirrored(self, params):
        """Arguments that the tool's schema wants in headers too."""
        import base64

        tool = self.tools.get(params.get("name", ""), {}) if hasattr(self, "tools") else {}
        headers = {}
        for key, schema in tool.get("inputSchema", {}).get("properties", {}).items():
            value = params.get("arguments", {}).get(key)
            if "x-mcp-header" not in schema or value is None:
                continue
            text = str(value).lower() if isinstance(value, bool) else str(value)
            is_plain = text == text.strip() and all(32 <= ord(it) < 127 for it in text)
            if not is_plain:
                text = f"=?base64?{base64.b64encode(text.encode()).decode()}?="
            headers[f"Mcp-Param-{schema['x-mcp-header']}"] = text
        return headers

    def ask(self, method, params=None):
        params = dict(params or {})
        while True:
            answer = self.once(method, params)
            result = answer.get("result", {})
            if result.get("resultType") != "input_required":
                return answer
            requests = result.get("inputRequests", {})
            params["inputResponses"] = {
                key: answered(it["method"], it.get("params", {})) for key, it in requests.items()
            }
            params.pop("requestState", None)
            if "requestState" in result:
                params["requestState"] = result["requestState"]

    def once(self, method, params):
        self.n_sent += 1
        if IS_MODERN:
            params = params | {
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": VERSION,
                    "io.modelcontextprotocol/clientInfo": {"name": "harness", "version": "1"},
                    "io.modelcontextprotocol/clientCapabilities": CAPABILITIES,
                }
            }
        frame = {"jsonrpc": "2.0", "id": self.n_sent, "method": method, "params": params}
        for message in self.post(frame):
            if message.get("id") == self.n_sent and "method" not in message:
                return message
            if "method" in message and "id" in message:
                result = answered(message["method"], message.get("params", {}))
                list(self.post({"jsonrpc": "2.0", "id": message["id"], "result": result}))
        raise SystemExit(f"{method}: no answer")

    def open(self):
        if IS_MODERN:
            return self.good("server/discover")
        said = self.good(
            "initialize",
            {
                "protocolVersion": VERSION,
                "capabilities": CAPABILITIES,
                "clientInfo": {"name": "harness", "version": "1"},
            },
        )
        list(self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        return said

    def good(self, method, params=None):
        answer = self.ask(method, params)
        if "result" not in answer:
            raise SystemExit(f"{method} {params}: {answer}")
        return answer["result"]

    def list(self):
        listed = self.good("tools/list")["tools"]
        self.tools = {it["name"]: it for it in listed if it["name"].startswith(PREFIX)}
        return self.tools

    def call(self, tool, arguments):
        result = self.good("tools/call", {"name": PREFIX + tool, "arguments": arguments})
        if result.get("isError"):
            raise SystemExit(f"{tool}: {result}")
        return result


def answered(method, params):
    if method == "elicitation/create":
        fields = params.get("requestedSchema", {}).get("properties", {})
        # Left out by the user, so that the defaults are what counts.
        return {"action": "accept", "content": {key: it.get("default", True) for key, it in fields.items()}}
    if method == "sampling/createMessage":
        return {"role": "assistant", "model": "canned", "content": {"type": "text", "text": "Paris"}}
    return {"roots": []}


def tools_call(client):
    client.list()
    result = client.call("add_numbers", {"a": 5, "b": 3})
    assert "8" in result["content"][0]["text"], result


def standard_headers(client):
    client.list()
    client.call("test_headers", {})
    client.call("my-hyphenated-tool", {})
    resources = [it["uri"] for it in client.good("resources/list")["resources"]]
    for uri in ["file:///path/to/file%20name.txt", "https://example.com/resource?id=123"]:
        assert uri in resources, resources
        client.good("resources/read", {"uri": uri})
    prompts = [it["name"] for it in client.good("prompts/list")["prompts"]]
    assert PREFIX + "test_prompt" in prompts, prompts
    client.good("prompts/get", {"name": PREFIX + "test_prompt"})


def custom_headers(client):
    client.list()
    for call in CONTEXT["toolCalls"]:
        client.call(call["name"], call["arguments"])


def invalid_tool_headers(client):
    # Whoever is shown a tool calls it.
    tools = client.list()
    assert PREFIX + "valid_tool" in tools, tools
    for name, tool in tools.items():
        properties = tool["inputSchema"].get("properties", {})
        client.ask("tools/call", {"name": name, "arguments": {key: "x" for key in properties}})


def request_state(client):
    client.list()
    for tool in ["test_mrtr_echo_state", "test_mrtr_unrelated", "test_mrtr_no_state", "test_mrtr_no_result_type"]:
        client.call(tool, {})


def preservation(client):
    tools = client.list()
    schema = tools[PREFIX + "json_schema_2020_12_tool"]["inputSchema"]
    client.call("json_schema_echo", {"schema": schema})


SCENARIOS = {
    "initialize": lambda client: None,
    "tools_call": tools_call,
    "request-metadata": Client.list,
    "http-standard-headers": standard_headers,
    "http-custom-headers": custom_headers,
    "http-invalid-tool-headers": invalid_tool_headers,
    "json-schema-ref-no-deref": Client.list,
    "json-schema-2020-12-preservation": preservation,
    "sep-2322-client-request-state": request_state,
    "sse-retry": lambda client: (client.list(), client.call("test_reconnection", {})),
    "elicitation-sep1034-client-defaults": lambda client: (
        client.list(),
        client.call("test_client_elicitation_defaults", {}),
    ),
}


def main():
    with tempfile.TemporaryDirectory() as home:
        gateway = Gateway(sys.argv[-1], home)
        try:
            client = Client(gateway.port)
            client.open()
            SCENARIOS[SCENARIO](client)
        finally:
            gateway.end()


if __name__ == "__main__":
    main()
