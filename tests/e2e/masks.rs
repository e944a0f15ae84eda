//! What two runs of a command cannot have in common, taken out of what it prints: ages, and what is drawn by chance.

use crate::cli::WORLDS;

/// What the names that the server makes up are made of.
const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Takes out ages and what changes by itself; with `by_chance` also what is drawn.
pub fn normal(text: &str, by_chance: bool) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let line = line.trim_end();
        let key = line.trim_start().trim_start_matches('"').to_lowercase();
        // What kubectl's client logs when a command ends before all of its input was sent: it comes or not.
        if line.ends_with("\"Copying stdin failed\" err=\"websocket: close sent\"") {
            continue;
        }
        // What changes by itself while the commands run.
        if ["renewtime", "renew time", "resourceversion", "resource version"].iter().any(|k| key.starts_with(k)) {
            lines.push_str("<moves>\n");
            continue;
        }
        let words = line.split_inclusive([' ', '(', ')', '"', ',', '\t', '/', '=', ']', '[', '{', '}', '\'']);
        let mut after_age = false;
        for word in words {
            let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric());
            let rest = &word[bare.len()..];
            if after_age && word.trim().is_empty() {
                continue; // the column of an age is as wide as its ages
            }
            after_age = false;
            if is_age(bare) || ["AGE", "SEEN"].contains(&bare) {
                let shown = if is_age(bare) { "<age>" } else { bare };
                lines.push_str(shown);
                lines.push_str(if rest == " " { "" } else { rest.trim() });
                lines.push(' ');
                after_age = true;
            } else if by_chance {
                lines.push_str(&drawn(bare));
                lines.push_str(rest);
            } else {
                lines.push_str(word);
            }
        }
        lines.push('\n');
    }
    lines
}

/// `5s`, `3m20s`, `2d`.
fn is_age(word: &str) -> bool {
    let (mut digits, mut units) = (0, 0);
    for c in word.chars() {
        match c {
            '0'..='9' => digits += 1,
            's' | 'm' | 'h' | 'd' | 'y' if digits > 0 => {
                units += 1;
                digits = 0;
            }
            _ => return false,
        }
    }
    units > 0 && digits == 0
}

/// A word with what was drawn for it replaced: the world, random name parts, uids, times, addresses.
fn drawn(word: &str) -> String {
    let hex = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if WORLDS.contains(&word) {
        return "WORLD".into();
    }
    if word.len() == 36 && hex(word) {
        return "UID".into();
    }
    if word.starts_with("20") && word.contains('T') && word.contains(':') {
        return "TIME".into();
    }
    if word.starts_with("10.4") {
        return "IP".into();
    }
    let stem = without_random(without_random(word));
    if stem.len() < word.len() {
        return format!("{stem}-RANDOM");
    }
    word.into()
}

/// A name without the part that made it unlike others, if it has one: `web` of `web-76fc9`, and of `web-5dcdb4fb8c`.
fn without_random(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, tail)) if (5..=10).contains(&tail.len()) && tail.chars().all(|c| ALPHABET.contains(c)) => stem,
        _ => name,
    }
}

#[test]
fn ages_and_chance_are_taken_out() {
    for (text, by_chance, expected) in [
        ("a   1 (5s ago)   3m20s   x", false, "a   1 (<age> ago)   <age> x\n"),
        ("NAME   AGE     IP", false, "NAME   AGE IP\n"),
        ("pod/web-5dcdb4fb8c-76fc9 in east", true, "pod/web-RANDOM in WORLD\n"),
        ("  resourceVersion: \"12\"", false, "<moves>\n"),
    ] {
        assert_eq!(normal(text, by_chance), expected);
    }
}
