//! The fields of a form in a URL: `query=cat+face&start=200` (`application/x-www-form-urlencoded`, URL Standard, section 5),
//! and percent-encoding (RFC 3986, section 2.1).

/// What stands there means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadForm {
    /// A `%` without two hexadecimal digits after it.
    #[error("a % is not followed by two hexadecimal digits")]
    Escape,
    /// What the escapes stand for.
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// The first value of a field; `None`: there is none of that name.
///
/// # Errors
/// The value means nothing.
pub fn value(form: &str, name: &str) -> Result<Option<String>, BadForm> {
    let fields = form.split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
    for (its_name, value) in fields {
        if text(its_name).is_ok_and(|its_name| its_name == name) {
            return text(value).map(Some);
        }
    }
    Ok(None)
}

/// A value as it is to stand in a form.
pub fn encoded(value: &str) -> String {
    let encode = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'*' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

fn text(value: &str) -> Result<String, BadForm> {
    let bytes = undo_percent(&value.replace('+', " ")).ok_or(BadForm::Escape)?;
    String::from_utf8(bytes).map_err(|_| BadForm::NotUtf8)
}

/// Undoes percent-encoding; `None`: an escape means nothing.
pub(super) fn undo_percent(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let digits = str::from_utf8(rest.split_off(..2)?).ok()?;
                u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_found_and_decoded() {
        let form = "query=cat+face&start=&query=x&%73top=%E2%99%9C&flag";
        for (name, expected) in
            [("query", Some("cat face")), ("start", Some("")), ("stop", Some("♜")), ("flag", Some("")), ("Query", None)]
        {
            assert_eq!(value(form, name), Ok(expected.map(str::to_owned)), "{name}");
        }
        assert_eq!(value("", "query"), Ok(None));
        assert_eq!(value("query=a%2Bb%20c", "query"), Ok(Some("a+b c".to_owned())));
        for broken in ["%zz", "%", "%4", "%+1", "%é"] {
            assert_eq!(value(&format!("query={broken}"), "query"), Err(BadForm::Escape), "{broken}");
        }
        assert_eq!(value("query=%FF", "query"), Err(BadForm::NotUtf8));
        assert_eq!(value("other=%zz&%zz=1&query=a", "query"), Ok(Some("a".to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in any::<String>()) {
            prop_assert_eq!(value(&format!("a=b&text={}", encoded(&text)), "text"), Ok(Some(text)));
        }
    }
}
