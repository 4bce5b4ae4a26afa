//! Paging: how many at once, and where to go on. Tokens are opaque to callers.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

pub const DEFAULT_PAGE_SIZE: u32 = 100;
pub const MAX_PAGE_SIZE: u32 = 1000;

/// How many entries of a list to answer at once, from 1 to 1000; 100 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PageSize(u32);

impl PageSize {
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for PageSize {
    fn default() -> PageSize {
        PageSize(DEFAULT_PAGE_SIZE)
    }
}

impl<'de> Deserialize<'de> for PageSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PageSize, D::Error> {
        let size = i64::deserialize(deserializer)?;
        match u32::try_from(size) {
            Ok(it) if (1..=MAX_PAGE_SIZE).contains(&it) => Ok(PageSize(it)),
            _ => Err(serde::de::Error::custom(format!(
                "{size} is not a page size from 1 to {MAX_PAGE_SIZE}"
            ))),
        }
    }
}

impl JsonSchema for PageSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PageSize".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE})
    }
}

/// The key of the last entry of a page, in hexadecimal, after the name of the list it belongs to.
pub fn token_after(list: &str, last_key: &str) -> String {
    hex::encode(format!("{list}\n{last_key}"))
}

/// The key that `token` says to go on after; an empty token starts at the beginning.
pub fn key_of(list: &str, token: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = hex::decode(token).ok().and_then(|it| String::from_utf8(it).ok()).and_then(|it| {
        it.strip_prefix(list).and_then(|it| it.strip_prefix('\n')).map(str::to_owned)
    });
    match key {
        Some(it) => Ok(Some(it)),
        None => Err(Error::invalid(
            "page_token",
            "it is not a token of this list; pass the `next_page_token` of the page before, or leave it out to start over",
        )),
    }
}

/// The key as what it was made from.
pub fn place_of<T: FromStr>(list: &str, token: &str) -> Result<Option<T>, Error> {
    let parse = |it: String| {
        let damaged = |_| Error::invalid("page_token", "it is damaged; leave it out to start over");
        it.parse().map_err(damaged)
    };
    key_of(list, token)?.map(parse).transpose()
}

/// A page of `read`, of which one more than its size was read to know whether there are more, and the token of the
/// next page; empty after the last.
pub fn trim<T>(
    list: &str,
    mut read: Vec<T>,
    key: impl Fn(&T) -> String,
    size: PageSize,
) -> (Vec<T>, String) {
    let has_more = size.get() < read.len();
    read.truncate(size.get());
    let next = match read.last() {
        Some(last) if has_more => token_after(list, &key(last)),
        _ => String::new(),
    };
    (read, next)
}

/// One page of `items`, which are sorted by `key`, and the token of the next page; empty after the last.
pub fn cut<'a, T>(
    list: &str,
    items: &'a [T],
    key: impl Fn(&T) -> String,
    token: &str,
    size: PageSize,
) -> Result<(&'a [T], String), Error> {
    let start = match key_of(list, token)? {
        Some(after) => items.partition_point(|it| key(it) <= after),
        None => 0,
    };
    let end = items.len().min(start + size.get());
    let page = &items[start..end];
    let next = match page.last() {
        Some(last) if end < items.len() => token_after(list, &key(last)),
        _ => String::new(),
    };
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_list_even_when_the_last_seen_entry_is_gone() {
        let size = PageSize(2);
        let key = |it: &&str| (*it).to_owned();
        let (page, next) = cut("nodes", &["a", "b", "c", "d"], key, "", size).unwrap();
        assert_eq!(page, ["a", "b"]);
        let (page, next) = cut("nodes", &["a", "c", "d"], key, &next, size).unwrap();
        assert_eq!(page, ["c", "d"]);
        assert_eq!(next, "");
        assert!(cut("images", &["a"], key, &token_after("nodes", "a"), size).is_err());
    }

    #[test]
    fn only_what_was_read_beyond_the_page_makes_another() {
        let key = |it: &u8| it.to_string();
        assert_eq!(trim("audit", vec![9, 8], key, PageSize(2)), (vec![9, 8], String::new()));
        let (page, next) = trim("audit", vec![9, 8, 7], key, PageSize(2));
        assert_eq!(page, [9, 8]);
        assert_eq!(place_of("audit", &next).unwrap(), Some(8));
        let not_a_number = token_after("audit", "x");
        assert!(place_of::<u8>("audit", &not_a_number).is_err());
    }

    #[test]
    fn a_token_reads_back_only_in_its_own_list() {
        let token = token_after("instances", "i-1");
        assert_eq!(key_of("instances", &token).unwrap().as_deref(), Some("i-1"));
        assert_eq!(key_of("instances", "").unwrap(), None);
        for bad in [token_after("nodes", "n"), "zz".to_owned(), "ff".to_owned()] {
            assert!(
                matches!(key_of("instances", &bad), Err(Error::InvalidParameter { .. })),
                "{bad}"
            );
        }
    }
}
