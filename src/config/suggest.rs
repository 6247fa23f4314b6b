//! "Did you mean": the likeliest intended word among those allowed.

/// The candidate nearest to `found`, if it is near enough to be a slip of the keyboard.
pub(super) fn closest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    // One slip for every three letters; anything further away is a different word.
    let tolerance = (found.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&found, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "x"?`, or `;` where nothing is near; what is allowed follows.
pub(super) fn hint<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match closest(found, candidates) {
        Some(candidate) => format!("; did you mean {candidate:?}?"),
        None => ";".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["code", "handler", "timeout", "start_timeout"];
        assert_eq!(closest("tiemout", keys), Some("timeout"));
        assert_eq!(closest("Handlr", keys), Some("handler"));
        assert_eq!(closest("colour", keys), None);
    }
}
