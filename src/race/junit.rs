//! The verdicts of a race as JUnit XML: what CI systems show as tests.
//!
//! There is no standard; this is what Jenkins, GitLab and GitHub's reporters read: `testsuites`, `testsuite`, `testcase`,
//! `failure`.

use maud::{PreEscaped, html};

/// One test case: what was claimed, and why it does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The claim.
    pub name: String,
    /// Why it does not hold; `None`: it does.
    pub failure: Option<String>,
}

/// The test cases of one race, which took so many seconds, as one document.
pub fn document(cases: &[Case], seconds: f64) -> String {
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let (number, time) = (cases.len(), format!("{seconds:.3}"));
    let body = html! {
        testsuites name="poetry-race" tests=(number) failures=(failures) errors="0" time=(time) {
            testsuite name="poetry-race" tests=(number) failures=(failures) errors="0" skipped="0" time=(time) {
                @for case in cases {
                    testcase classname="poetry-race" name=(case.name) {
                        @if let Some(failure) = &case.failure {
                            failure message=(failure) { (failure) }
                        }
                    }
                }
            }
        }
    };
    html! { (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")) (body) "\n" }.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_test_cases_whatever_is_in_them() {
        let holds = Case { name: "async <= 1.1 * bound".to_owned(), failure: None };
        let failed = Case { name: "a & \"b\"".to_owned(), failure: Some("3 > 2".to_owned()) };
        let text = document(&[holds, failed], 1.5);
        let document = roxmltree::Document::parse(&text).expect("well-formed XML");
        let suite = document.root_element().first_element_child().expect("a suite");
        assert_eq!((suite.attribute("tests"), suite.attribute("failures")), (Some("2"), Some("1")));
        let cases: Vec<_> = suite.children().filter(roxmltree::Node::is_element).collect();
        assert_eq!(
            cases.iter().map(|case| case.attribute("name")).collect::<Vec<_>>(),
            [Some("async <= 1.1 * bound"), Some("a & \"b\""),]
        );
        assert!(cases[0].first_element_child().is_none());
        let failure = cases[1].first_element_child().expect("a failure");
        assert_eq!((failure.attribute("message"), failure.text()), (Some("3 > 2"), Some("3 > 2")));
    }
}
