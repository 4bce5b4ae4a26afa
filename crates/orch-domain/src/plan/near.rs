//! Names that a mistyped one may mean.

/// Longer ones are no typing error of anything.
const LONGEST: usize = 80;

/// At most three of `names`, the nearest first.
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    if LONGEST < given.len() {
        return Vec::new();
    }
    let given = given.to_lowercase();
    let mut found: Vec<(usize, &str)> =
        names.into_iter().filter_map(|it| Some((distance(&given, it)?, it))).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, it)| it).collect()
}

/// None: too far to be meant. `given` is in lower case.
fn distance(given: &str, name: &str) -> Option<usize> {
    let most = (given.len() / 3).clamp(1, 3);
    let apart = given.len().abs_diff(name.len());
    if apart <= most {
        let name = name.to_lowercase();
        let edits = strsim::osa_distance(given, &name);
        // Of names of a letter or two nothing would be left.
        if edits <= most && edits < given.len() {
            return Some(edits);
        }
    }
    // A word of it left out, or one too many: `items` for `all_items`.
    let (short, long) = if given.len() < name.len() { (given, name) } else { (name, given) };
    (4 <= short.len() && long.len() <= LONGEST && long.to_lowercase().contains(short))
        .then_some(3 + apart)
}

/// `; nearest: …`, or nothing.
pub(super) fn hint<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    said(&nearest(given, names))
}

/// `; nearest: …` of names that were found already, or nothing.
pub(super) fn said<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => String::new(),
        _ => format!("; nearest: {}", list(names.iter().map(AsRef::as_ref), 3)),
    }
}

/// Names in backticks, at most so many, and how many more there are. They may be somebody else's, so they are cut.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let mut names = names.into_iter();
    let shown: Vec<String> =
        names.by_ref().take(most).map(|it| format!("`{}`", crate::text::excerpt(it, 60))).collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        let names = ["launch_instance", "list_instances", "stop_instance", "id"];
        assert_eq!(nearest("lanch_instance", names), ["launch_instance"]);
        assert_eq!(nearest("Launch_Instance", names), ["launch_instance"]);
        assert_eq!(nearest("idd", names), ["id"]);
        assert_eq!(nearest("instances", names), ["list_instances"]);
        assert!(nearest("weather", names).is_empty());
        assert!(nearest(&"x".repeat(1000), names).is_empty());
    }

    #[test]
    fn lists_are_cut_and_show_no_control_characters() {
        assert_eq!(list(["a", "b", "c"], 2), "`a`, `b` and 1 more");
        assert_eq!(list(["a\u{1b}"], 2), "`a\u{fffd}`");
        assert_eq!(hint("idd", ["id"]), "; nearest: `id`");
        assert_eq!(hint("x", ["something"]), "");
    }
}
