//! Which tools answer a query: BM25 over their names, titles, descriptions and parameters.

use std::collections::{BTreeSet, HashMap};

use bm25::{Embedder, EmbedderBuilder, Embedding, Scorer, Tokenizer};
use serde_json::Value;

use super::thesaurus::senses;
use super::words::words;
use crate::ports::tool_server::ServerTool;

/// How often a word of each field counts. A name is a few words that somebody chose to say what the tool does; the first
/// line of a description says it again, and what follows are conditions, formats and examples.
const OF_NAME: usize = 16;
const OF_TITLE: usize = 4;
const OF_FIRST_LINE: usize = 6;
const OF_REST: usize = 1;
const OF_PARAMETER: usize = 2;
const OF_PARAMETER_TEXT: usize = 1;
/// Who names a server means it.
const OF_SERVER: usize = 6;
/// What a word counts that only means the same.
const OF_SENSE: f32 = 0.8;
/// How soon it is enough of one word: later than usual, because weights repeat words.
const K1: f32 = 2.0;
/// Parameters that many tools have and that say nothing about them.
const PAGING: [&str; 9] = [
    "cursor",
    "limit",
    "offset",
    "page",
    "page_size",
    "page_token",
    "perPage",
    "per_page",
    "start_cursor",
];
/// Words of a description that are looked at; some are manuals, and what a tool does comes first in them.
const MAX_WORDS: usize = 120;
/// Parameters below that depth are details.
const MAX_DEPTH: usize = 2;

/// Over a set of tools that does not change; built again when the set does.
pub struct ToolIndex {
    embedder: Embedder<u32, Blanks>,
    scorer: Scorer<u32, u32>,
}

/// The words are made by `words`; here they only come apart again.
#[derive(Default)]
struct Blanks;

impl Tokenizer for Blanks {
    fn tokenize(&self, text: &str) -> Vec<String> {
        text.split(' ').filter(|it| !it.is_empty()).map(str::to_owned).collect()
    }
}

impl ToolIndex {
    pub fn build<'a>(tools: impl IntoIterator<Item = &'a ServerTool>) -> ToolIndex {
        let texts: Vec<String> = tools.into_iter().map(text_of).collect();
        let n_words: usize = texts.iter().map(|it| it.split(' ').count()).sum();
        let average = n_words as f32 / texts.len().max(1) as f32;
        let embedder = EmbedderBuilder::with_avgdl(average).k1(K1).build();
        let mut scorer = Scorer::new();
        for (i, text) in texts.iter().enumerate() {
            let i = u32::try_from(i).expect("nobody has that many tools");
            scorer.upsert(&i, once_each(embedder.embed(text)));
        }
        ToolIndex { embedder, scorer }
    }

    /// The tools that have any word of the query, by their places in what the index was built from, best first; of
    /// equals, the first.
    pub fn search(&self, query: &str) -> Vec<(usize, f32)> {
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for word in words(query).collect::<BTreeSet<String>>() {
            // The word itself or what means the same, whichever counts more: it was said once.
            let mut of_word: HashMap<u32, f32> = HashMap::new();
            let same = senses(&word).iter().map(|it| (it, OF_SENSE));
            for (token, factor) in std::iter::once((&word, 1.0)).chain(same) {
                for it in self.scorer.matches(&self.embedder.embed(token)) {
                    let score = of_word.entry(it.id).or_default();
                    *score = score.max(it.score * factor);
                }
            }
            of_word.into_iter().for_each(|(id, score)| *scores.entry(id).or_default() += score);
        }
        let mut found: Vec<(usize, f32)> =
            scores.into_iter().map(|(id, score)| (id as usize, score)).collect();
        found.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
        found
    }
}

/// The weight of a word has its frequency in it, and each place in the list costs the scorer a step.
fn once_each(mut embedding: Embedding<u32>) -> Embedding<u32> {
    embedding.0.sort_by_key(|it| it.index);
    embedding.0.dedup_by_key(|it| it.index);
    embedding
}

/// What is searched of a tool, each word as often as its field makes it count.
fn text_of(tool: &ServerTool) -> String {
    let mut text = String::new();
    let mut add = |field: &str, weight: usize| {
        words(field).take(MAX_WORDS).for_each(|it| add(&mut text, &it, weight));
    };
    add(&tool.server, OF_SERVER);
    add(&tool.name, OF_NAME);
    add(tool.title.as_deref().unwrap_or_default(), OF_TITLE);
    let (first, rest) = first_line(&tool.description);
    add(first, OF_FIRST_LINE);
    add(rest, OF_REST);
    parameters(&tool.input_schema, 0, &mut add);
    text
}

/// A word and what it may stand for, `weight` times.
fn add(text: &mut String, word: &str, weight: usize) {
    for it in std::iter::once(word).chain(senses(word).iter().map(String::as_str)) {
        for _ in 0..weight {
            text.push_str(it);
            text.push(' ');
        }
    }
}

/// Up to the end of the first sentence or line.
fn first_line(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find('\n').unwrap_or(text.len());
    let end = text[..end].find(". ").unwrap_or(end);
    text.split_at(end)
}

/// Names and descriptions of parameters.
fn parameters(schema: &Value, depth: usize, add: &mut impl FnMut(&str, usize)) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, schema) in properties {
        if PAGING.contains(&name.as_str()) {
            continue;
        }
        add(name, OF_PARAMETER);
        if let Some(text) = schema.get("description").and_then(Value::as_str) {
            add(first_line(text).0, OF_PARAMETER_TEXT);
        }
        if depth + 1 < MAX_DEPTH {
            parameters(schema, depth + 1, add);
            parameters(&schema["items"], depth + 1, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str, description: &str, parameter: &str) -> ServerTool {
        ServerTool {
            server: "files".to_owned(),
            name: name.to_owned(),
            title: None,
            description: description.to_owned(),
            input_schema: json!({"properties": {parameter: {"description": "Where it is."}}}),
            output_schema: None,
            annotations: None,
            pin: None,
        }
    }

    fn best(tools: &[ServerTool], query: &str) -> Vec<String> {
        let index = ToolIndex::build(tools);
        index.search(query).into_iter().map(|(i, _)| tools[i].name.clone()).collect()
    }

    #[test]
    fn names_descriptions_and_parameters_are_found_and_names_count_most() {
        let tools = [
            tool("read_file", "Gives the contents of a parchment.", "path"),
            tool("write", "Puts text on the disk. Reading it back is for another tool.", "path"),
            tool("listFolders", "Shows what there is.", "recursionDepth"),
        ];
        assert_eq!(best(&tools, "reading a file")[0], "read_file");
        assert_eq!(best(&tools, "PARCHMENTS"), ["read_file"]);
        assert_eq!(best(&tools, "folder"), ["listFolders"]);
        assert_eq!(best(&tools, "directory"), ["listFolders"], "it means the same");
        assert_eq!(best(&tools, "how deep? depth!"), ["listFolders"]);
        assert_eq!(best(&tools, "files").len(), 3, "the server's name is one of the words");
        assert!(best(&tools, "the of and").is_empty());
        assert!(best(&[], "anything").is_empty());
    }

    #[test]
    fn of_equals_the_first_is_first() {
        let tools: Vec<ServerTool> =
            (0..20).map(|i| tool(&format!("alike {i}"), "alike", "path")).collect();
        for _ in 0..5 {
            assert_eq!(best(&tools, "alike").first().map(String::as_str), Some("alike 0"));
        }
    }
}
