//! Text to the words that are compared: lower case, parted where names are, without the commonest, without endings.

/// The usual list for English, and words of asking. They say nothing about what a tool does, and where few descriptions
/// have one of them it would count for much.
const STOP_WORDS: [&str; 142] = [
    "a",
    "about",
    "above",
    "after",
    "again",
    "against",
    "all",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "because",
    "been",
    "before",
    "being",
    "below",
    "between",
    "both",
    "but",
    "by",
    "can",
    "could",
    "did",
    "do",
    "does",
    "doing",
    "don",
    "down",
    "during",
    "each",
    "every",
    "few",
    "for",
    "from",
    "further",
    "give",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "here",
    "hers",
    "herself",
    "him",
    "himself",
    "his",
    "how",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "just",
    "let",
    "like",
    "may",
    "me",
    "might",
    "more",
    "most",
    "must",
    "my",
    "myself",
    "need",
    "no",
    "nor",
    "not",
    "now",
    "of",
    "off",
    "on",
    "once",
    "only",
    "or",
    "other",
    "our",
    "ours",
    "ourselves",
    "out",
    "over",
    "own",
    "please",
    "s",
    "same",
    "shall",
    "she",
    "should",
    "so",
    "some",
    "such",
    "t",
    "tell",
    "than",
    "that",
    "the",
    "their",
    "theirs",
    "them",
    "themselves",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "through",
    "to",
    "too",
    "under",
    "until",
    "up",
    "us",
    "very",
    "want",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "while",
    "who",
    "whom",
    "why",
    "will",
    "with",
    "would",
    "you",
    "your",
    "yours",
    "yourself",
    "yourselves",
];

/// The words of `text`, in order. Parts of names are words: `create_pullRequest` has three.
pub(super) fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|it: char| !it.is_alphanumeric())
        .flat_map(parts)
        .map(str::to_lowercase)
        .filter(|it| STOP_WORDS.binary_search(&it.as_str()).is_err())
        .map(|it| stem(&it))
}

/// Parts a name where its capitals begin new words: `HTTPServer`, `getURL`, `listNodes`.
fn parts(name: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let letters: Vec<(usize, char)> = name.char_indices().collect();
    for (i, (at, letter)) in letters.iter().enumerate().skip(1) {
        let before = letters[i - 1].1;
        let after = letters.get(i + 1).map(|it| it.1);
        let begins = letter.is_uppercase()
            && (before.is_lowercase()
                || before.is_numeric()
                || (before.is_uppercase() && after.is_some_and(char::is_lowercase)));
        if begins {
            parts.push(&name[start..*at]);
            start = *at;
        }
    }
    if start < name.len() {
        parts.push(&name[start..]);
    }
    parts
}

/// Without the endings of English plurals and verb forms, so that `files`, `listing` and `deleted` are `file`, `list` and
/// `delete`. What comes out need not be a word, only the same for both sides.
pub(super) fn stem(word: &str) -> String {
    const SHORTEST: usize = 3;
    if word.len() <= SHORTEST || !word.is_ascii() {
        return word.to_owned();
    }
    let cut = |ending: &str| {
        let rest = word.strip_suffix(ending)?;
        let has_vowel = rest.bytes().any(|it| b"aeiouy".contains(&it));
        (SHORTEST <= rest.len() && has_vowel).then_some(rest)
    };
    let mut stem = if let Some(rest) = cut("ies") {
        format!("{rest}y")
    } else if let Some(rest) = cut("sses") {
        format!("{rest}ss")
    } else if word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") {
        word.to_owned()
    } else if let Some(rest) = cut("ing").or_else(|| cut("ed")).or_else(|| cut("es")) {
        rest.to_owned()
    } else {
        cut("s").unwrap_or(word).to_owned()
    };
    // `stopp` of `stopping`.
    let bytes = stem.as_bytes();
    if let [.., a, b] = bytes
        && a == b
        && !b"aeiouls".contains(b)
    {
        stem.pop();
    }
    // `delete` beside `delet` of `deleting`.
    if SHORTEST < stem.len() && stem.ends_with('e') {
        stem.pop();
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        words(text).collect()
    }

    #[test]
    fn names_are_parted_and_common_words_left_out() {
        assert_eq!(of("github.create_pullRequest"), ["github", "creat", "pull", "request"]);
        assert_eq!(of("getURL HTTPServer2Go"), ["get", "url", "http", "server2", "go"]);
        assert_eq!(of("What is the state of my nodes?"), ["stat", "nod"]);
        assert_eq!(of("Größe 日本"), ["größe", "日本"]);
        assert!(of(" . _-").is_empty());
    }

    #[test]
    fn forms_of_one_word_are_one() {
        for forms in [
            &["file", "files"][..],
            &["delete", "deletes", "deleted", "deleting"],
            &["stop", "stops", "stopped", "stopping"],
            &["list", "lists", "listed", "listing"],
            &["query", "queries"],
            &["search", "searches", "searching"],
            &["process", "processes"],
            &["call", "called", "calling"],
            &["image", "images"],
        ] {
            let stems: Vec<String> = forms.iter().map(|it| stem(it)).collect();
            assert!(stems.iter().all(|it| *it == stems[0]), "{forms:?}: {stems:?}");
        }
        assert_ne!(stem("status"), stem("state"));
    }

    #[test]
    fn stop_words_are_in_order() {
        assert!(STOP_WORDS.is_sorted());
    }
}
