// The same tour with the official TypeScript clients.
//
//     client.mjs sdk|client LABEL FOLDER URL
//     client.mjs sdk|client LABEL FOLDER COMMAND [ARGUMENT ...]
//
// `sdk` is `@modelcontextprotocol/sdk` 1.x, which speaks 2025-11-25; `client` is `@modelcontextprotocol/client` 2.x, which
// must find 2026-07-28.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// From the folder that they were installed into, which is the working directory.
const require = createRequire(join(process.cwd(), "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)));

const [, , which, label, folder, ...target] = process.argv;
const isUrl = target[0].startsWith("http://");
const say = (what, came = "") => console.log(`  ${what.padEnd(44)} ${String(came).slice(0, 90)}`);

async function connected() {
  const about = { name: label, version: "1.0.0" };
  const parts =
    which === "sdk"
      ? {
          Client: (await load("@modelcontextprotocol/sdk/client/index.js")).Client,
          Http: (await load("@modelcontextprotocol/sdk/client/streamableHttp.js")).StreamableHTTPClientTransport,
          Stdio: (await load("@modelcontextprotocol/sdk/client/stdio.js")).StdioClientTransport,
        }
      : {
          Client: (await load("@modelcontextprotocol/client")).Client,
          Http: (await load("@modelcontextprotocol/client")).StreamableHTTPClientTransport,
          Stdio: (await load("@modelcontextprotocol/client/stdio")).StdioClientTransport,
        };
  const options = which === "sdk" ? {} : { versionNegotiation: { mode: "auto" } };
  const client = new parts.Client(about, options);
  const transport = isUrl
    ? new parts.Http(new URL(target[0]))
    : new parts.Stdio({ command: target[0], args: target.slice(1), stderr: "ignore" });
  await client.connect(transport);
  return { client, transport };
}

async function called(client, name, args) {
  const result = await client.callTool({ name, arguments: args });
  assert(!result.isError, JSON.stringify(result));
  return result;
}

const { client, transport } = await connected();
const version = which === "sdk" ? "2025-11-25" : "2026-07-28";
const spoken = which === "sdk" ? (transport.protocolVersion ?? version) : client.getNegotiatedProtocolVersion();
assert.equal(spoken, version);
console.log(`TypeScript ${which === "sdk" ? "sdk 1.x" : "client 2.x"}, ${isUrl ? "HTTP" : "stdio"}, ${spoken}`);

// 2.x reads all pages by itself, and so does one page here.
const names = new Set((await client.listTools()).tools.map((it) => it.name));
for (const name of ["launch_instance", "everything__echo", "memory__read_graph", "files__read_text_file", "time__convert_time"]) {
  assert(names.has(name), `${name} is not among ${[...names]}`);
}
say("tools/list", `${names.size} tools`);

const echoed = await called(client, "everything__echo", { message: label });
assert(echoed.content[0].text.includes(label));
const entity = { name: label, entityType: "tour", observations: ["went through the gateway"] };
await called(client, "memory__create_entities", { entities: [entity] });
const found = await called(client, "memory__search_nodes", { query: label });
assert.deepEqual(found.structuredContent.entities, [entity]);
const file = join(folder, `${label}.txt`);
await called(client, "files__write_file", { path: file, content: "written" });
assert.equal(await readFile(file, "utf8"), "written");
const times = { source_timezone: "UTC", time: "12:00", target_timezone: "Asia/Tokyo" };
const told = JSON.parse((await called(client, "time__convert_time", times)).content[0].text);
assert(told.target.datetime.endsWith("T21:00:00+09:00"), told.target.datetime);
say("one tool of each server", `${echoed.content[0].text}; ${file}; ${told.target.datetime}`);

const seen = [];
// When the last progress and the result come in one piece, the 1.x client has forgotten the call before it hands the
// progress on, and tells of it here.
client.onerror = (err) => {
  const late = /unknown token: (.*)$/.exec(err.message);
  if (late) seen.push(JSON.parse(late[1]).params.progress);
};
const long = { name: "everything__trigger-long-running-operation", arguments: { duration: 0.4, steps: 4 } };
const onprogress = (it) => seen.push(it.progress);
const done = which === "sdk" ? await client.callTool(long, undefined, { onprogress }) : await client.callTool(long, { onprogress });
assert(!done.isError);
await new Promise((resolve) => setImmediate(resolve));
assert.deepEqual(seen, [1, 2, 3, 4]);
say("progress of a long operation", seen);

const read = await client.readResource({ uri: "demo://resource/static/document/architecture.md" });
assert(read.contents[0].text.includes("Architecture"));
const prompt = await client.getPrompt({ name: "everything__args-prompt", arguments: { city: "Kyoto" } });
assert(prompt.messages[0].content.text.includes("Kyoto"));
const proposed = await client.complete({
  ref: { type: "ref/prompt", name: "everything__completable-prompt" },
  argument: { name: "department", value: "S" },
});
assert(proposed.completion.values.includes("Sales"));
say("a resource, a prompt, a completion", `${read.contents[0].uri}; ${proposed.completion.values}`);

const launched = await called(client, "launch_instance", { name: label, image: "nginx:alpine", ports: [80], node_id: "sim-1" });
assert.equal(launched.structuredContent.state, "running");
await called(client, "terminate_instance", { id: launched.structuredContent.id });
say("launch_instance", `${launched.structuredContent.id} at ${launched.structuredContent.address}`);

await client.close();
