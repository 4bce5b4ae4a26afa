"""One tour through everything behind the gateway, with the official Python client.

    client.py MODE LABEL FOLDER URL
    client.py MODE LABEL FOLDER COMMAND [ARGUMENT ...]

MODE is `legacy` (which speaks 2025-11-25) or `auto` (which must find 2026-07-28), LABEL what the traces of this tour are called,
FOLDER what the server `files` may read and write. Says what comes back; ends with a traceback at the first thing that
is not as it should be.
"""

import asyncio
import json
import sys
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.types import PromptReference

VERSIONS = {"legacy": "2025-11-25", "auto": "2026-07-28"}
OWN = {"launch_instance", "list_nodes", "terminate_instance"}
BEHIND = {"everything__echo", "memory__read_graph", "files__read_text_file", "time__convert_time"}


def say(what: str, came: object = "") -> None:
    print(f"  {what:<44} {str(came)[:90]}", flush=True)


async def called(client: Client, tool: str, arguments: dict, **options):
    # The client checks structured answers against the tool's output schema.
    result = await client.call_tool(tool, arguments, **options)
    assert not result.is_error, result
    return result


async def tools(client: Client) -> None:
    names = set()
    # A server that takes seconds to start is in the list when it is there; nobody waits for it.
    for _ in range(200):
        names = {it.name for it in (await client.list_tools(cache_mode="refresh")).tools}
        if BEHIND <= names:
            break
        await asyncio.sleep(0.1)
    assert OWN <= names and BEHIND <= names, names
    assert "memory__delete_entities" not in names, "it is denied in mcp-config.json"
    behind = {server: sum(it.startswith(f"{server}__") for it in names) for server in ("everything", "memory", "files", "time")}
    say("tools/list", f"{len(names)} tools, of them behind: {behind}")


async def each_server(client: Client, label: str, folder: Path) -> None:
    echoed = await called(client, "everything__echo", {"message": label})
    assert label in echoed.content[0].text, echoed
    say("everything__echo", echoed.content[0].text)

    entity = {"name": label, "entityType": "tour", "observations": ["went through the gateway"]}
    made = await called(client, "memory__create_entities", {"entities": [entity]})
    assert made.structured_content["entities"][0]["name"] == label, made
    found = await called(client, "memory__search_nodes", {"query": label})
    assert found.structured_content["entities"][0]["observations"] == entity["observations"], found
    say("memory__create_entities, memory__search_nodes", found.structured_content["entities"])

    file = folder / f"{label}.txt"
    await called(client, "files__write_file", {"path": str(file), "content": "written\nthrough"})
    assert file.read_text() == "written\nthrough"
    read = await called(client, "files__read_text_file", {"path": str(file)})
    assert read.content[0].text == "written\nthrough", read
    refused = await client.call_tool("files__read_text_file", {"path": "/etc/hostname"})
    assert refused.is_error and "denied" in refused.content[0].text, refused
    say("files__write_file, files__read_text_file", f"{file.name}; outside: {refused.content[0].text}")

    times = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    told = json.loads((await called(client, "time__convert_time", times)).content[0].text)
    assert told["target"]["datetime"].endswith("T21:00:00+09:00"), told
    say("time__convert_time", told["target"]["datetime"])


async def progress(client: Client) -> None:
    seen = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total))

    tool = "everything__trigger-long-running-operation"
    await called(client, tool, {"duration": 0.4, "steps": 4}, progress_callback=on_progress)
    assert seen == [(n, 4) for n in (1, 2, 3, 4)], seen
    say("progress of a long operation", seen)


async def resource_prompt_completion(client: Client) -> None:
    uris = [str(it.uri) for it in (await client.list_resources()).resources]
    assert any(it.startswith("demo://") for it in uris) and "cluster://status" in uris, uris
    document = next(it for it in uris if it.endswith("architecture.md"))
    read = await client.read_resource(document)
    assert "Architecture" in read.contents[0].text, read
    dynamic = await client.read_resource("demo://resource/dynamic/text/7")
    assert "7" in dynamic.contents[0].text, dynamic
    say("resources/read", f"{document}: {len(read.contents[0].text)} characters")

    names = {it.name for it in (await client.list_prompts()).prompts}
    assert {"diagnose_node", "everything__args-prompt"} <= names, names
    prompt = await client.get_prompt("everything__args-prompt", {"city": "Kyoto"})
    assert "Kyoto" in prompt.messages[0].content.text, prompt
    say("prompts/get", prompt.messages[0].content.text)

    ref = PromptReference(type="ref/prompt", name="everything__completable-prompt")
    proposed = await client.complete(ref, {"name": "department", "value": "S"})
    assert "Sales" in proposed.completion.values, proposed
    say("completion/complete", proposed.completion.values)


async def own_cluster(client: Client, label: str) -> None:
    wanted = {"name": label, "image": "nginx:alpine", "ports": [80], "node_id": "sim-1"}
    launched = (await called(client, "launch_instance", wanted)).structured_content
    assert launched["state"] == "running", launched
    say("launch_instance", f"{launched['id']} at {launched['address']}")
    await called(client, "terminate_instance", {"id": launched["id"]})


async def main(mode: str, label: str, folder: Path, target: list[str]) -> None:
    is_url = target[0].startswith("http://")
    server = target[0] if is_url else StdioServerParameters(command=target[0], args=target[1:])
    async with Client(server, mode=mode, read_timeout_seconds=30) as client:
        assert client.protocol_version == VERSIONS[mode], client.protocol_version
        print(f"Python client, {'HTTP' if is_url else 'stdio'}, {client.protocol_version}")
        await tools(client)
        await each_server(client, label, folder)
        await progress(client)
        await resource_prompt_completion(client)
        await own_cluster(client, label)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
