//! Comparisons of sums of quantities, as people write them: `async <= 1.1 * bound`, `left < 4s`.
//!
//! ```text
//! comparison := sum ("<" | "<=" | "=" | "==" | ">=" | ">") sum
//! sum        := product (("+" | "-") product)*
//! product    := value (("*" | "/") value)*
//! value      := NUMBER [UNIT] | QUANTITY | "(" sum ")"
//! QUANTITY   := WORD ["." WORD]
//! WORD       := LETTER (LETTER | DIGIT)*
//! UNIT       := "us" | "ms" | "s" | "m"
//! ```
//!
//! What quantities there are is the affair of who judges. Times are in seconds.

/// What a comparison may speak of, beside numbers.
pub trait Quantity: Copy {
    /// All of them in words, to follow `a number`: `, a pear or an apple`.
    const NAMES: &'static str;
    /// What a comparison has to name at least one of: `model`.
    const WHAT: &'static str;
    /// What a comparison of them is called, and what it is like: `an assertion is like '1 < 2'`.
    const EXAMPLE: &'static str;

    /// The quantity of this name, `word` or `word.part`.
    ///
    /// # Errors
    /// There is none: what is wrong, or `None` if no quantity begins with this word.
    fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>>;

    /// Whether it is one of [`WHAT`](Self::WHAT) a comparison has to name.
    fn is_enough(self) -> bool {
        true
    }
}

/// A comparison of two sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison<Q> {
    text: String,
    left: Sum<Q>,
    relation: Relation,
    right: Sum<Q>,
}

/// The error of a text that is no comparison: what is wrong, and the rest of the text from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {}; {example}", place(.rest))]
pub struct SyntaxError {
    what: String,
    rest: String,
    example: &'static str,
}

/// The verdict on a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: bool,
    /// The values of both sides.
    pub sides: (f64, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

#[derive(Debug, Clone, PartialEq)]
enum Sum<Q> {
    Number(f64),
    Quantity(Q),
    Of(Box<Self>, char, Box<Self>),
}

impl<Q: Quantity> Comparison<Q> {
    /// Parses a comparison of the grammar above.
    ///
    /// # Errors
    /// The text is not of it, or speaks of unknown quantities, or of none.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parser = Parser { rest: text.trim(), depth: 0 };
        let left = parser.sum()?;
        let relation = parser.relation::<Q>()?;
        let right = parser.sum()?;
        if !parser.rest.is_empty() {
            return Err(error::<Q>("an operator was expected", parser.rest));
        }
        let text = text.trim().to_owned();
        let comparison = Self { text, left, relation, right };
        match comparison.quantities().into_iter().any(Q::is_enough) {
            true => Ok(comparison),
            false => Err(error::<Q>(&format!("no {} is named", Q::WHAT), &comparison.text)),
        }
    }

    /// The comparison as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The quantities that it speaks of, in their order, each as often as it is named.
    pub fn quantities(&self) -> Vec<Q> {
        let mut quantities = Vec::new();
        self.left.add_quantities(&mut quantities);
        self.right.add_quantities(&mut quantities);
        quantities
    }

    /// Judges it, with the value of each quantity.
    pub fn judge(&self, value: impl Fn(Q) -> f64) -> Verdict {
        let (left, right) = (self.left.value(&value), self.right.value(&value));
        // What is divided by nothing compares with everything, and proves nothing.
        let are_numbers = left.is_finite() && right.is_finite();
        let holds = match self.relation {
            Relation::Less => left < right,
            Relation::LessOrEqual => left <= right,
            Relation::Equal => left == right,
            Relation::GreaterOrEqual => left >= right,
            Relation::Greater => left > right,
        };
        Verdict { holds: holds && are_numbers, sides: (left, right) }
    }
}

impl<Q: Quantity + PartialEq> Comparison<Q> {
    /// What is to be said of a comparison that was given with this flag, if it does not hold. What speaks of a quantity
    /// without a value does not hold; `tell` says what one is.
    pub fn disappointment(
        &self,
        flag: &str,
        value: impl Fn(Q) -> Option<f64>,
        tell: impl Fn(Q) -> String,
    ) -> Option<String> {
        let named = self.quantities();
        if self.judge(|quantity| value(quantity).unwrap_or(f64::NAN)).holds
            && named.iter().all(|quantity| value(*quantity).is_some())
        {
            return None;
        }
        let mut told = Vec::new();
        for (number, quantity) in named.iter().enumerate() {
            if !named[..number].contains(quantity) {
                told.push(tell(*quantity));
            }
        }
        Some(format!("{flag} '{}' does not hold: {}", self.text, told.join(", ")))
    }
}

/// A value with at most six digits behind the point.
///
/// ```
/// use poetry_suite::comparison::short;
///
/// assert_eq!((short(5.002), short(3.0), short(2.0 / 3.0)), ("5.002".into(), "3".into(), "0.666667".into()));
/// ```
pub fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A count as a value. Fifteen digits are kept.
#[expect(clippy::cast_precision_loss, reason = "fifteen digits are enough")]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// Where in the text something is wrong: before what is left of it.
fn place(rest: &str) -> String {
    if rest.is_empty() { "at the end".to_owned() } else { format!("at '{rest}'") }
}

fn error<Q: Quantity>(what: &str, rest: &str) -> SyntaxError {
    SyntaxError { what: what.to_owned(), rest: rest.to_owned(), example: Q::EXAMPLE }
}

impl<Q: Quantity> Sum<Q> {
    fn value(&self, of: &impl Fn(Q) -> f64) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Quantity(quantity) => of(*quantity),
            Self::Of(left, operator, right) => {
                let (left, right) = (left.value(of), right.value(of));
                match operator {
                    '+' => left + right,
                    '-' => left - right,
                    '*' => left * right,
                    _ => left / right,
                }
            }
        }
    }

    fn add_quantities(&self, quantities: &mut Vec<Q>) {
        match self {
            Self::Quantity(quantity) => quantities.push(*quantity),
            Self::Of(left, _, right) => {
                left.add_quantities(quantities);
                right.add_quantities(quantities);
            }
            Self::Number(_) => {}
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl<'a> Parser<'a> {
    /// The most brackets in one comparison. The parser recurses, and the stack is not endless.
    const DEEPEST: u32 = 100;

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// Takes the longest prefix of characters of one kind.
    fn word(&mut self, is_part: fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn relation<Q: Quantity>(&mut self) -> Result<Relation, SyntaxError> {
        for (token, relation) in [
            ("<=", Relation::LessOrEqual),
            (">=", Relation::GreaterOrEqual),
            ("<", Relation::Less),
            (">", Relation::Greater),
            ("==", Relation::Equal),
            ("=", Relation::Equal),
        ] {
            if self.take(token) {
                return Ok(relation);
            }
        }
        Err(error::<Q>("<, <=, =, >= or > was expected", self.rest))
    }

    fn sum<Q: Quantity>(&mut self) -> Result<Sum<Q>, SyntaxError> {
        self.series(&["+", "-"], Self::product)
    }

    fn product<Q: Quantity>(&mut self) -> Result<Sum<Q>, SyntaxError> {
        self.series(&["*", "/"], Self::value)
    }

    fn series<Q: Quantity>(
        &mut self,
        operators: &[&str],
        operand: fn(&mut Self) -> Result<Sum<Q>, SyntaxError>,
    ) -> Result<Sum<Q>, SyntaxError> {
        let mut left = operand(self)?;
        while let Some(operator) = operators.iter().find(|operator| self.take(operator)) {
            let sign = operator.chars().next().unwrap_or_default();
            left = Sum::Of(Box::new(left), sign, Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn value<Q: Quantity>(&mut self) -> Result<Sum<Q>, SyntaxError> {
        let begin = self.rest;
        if self.take("(") {
            self.depth += 1;
            if self.depth > Self::DEEPEST {
                return Err(error::<Q>("too many brackets", begin));
            }
            let sum = self.sum()?;
            return if self.take(")") { Ok(sum) } else { Err(error::<Q>("')' was expected", self.rest)) };
        }
        if begin.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let number = self.word(|c| c.is_ascii_digit() || c == '.').parse::<f64>();
            let number = number.map_err(|_| error::<Q>("not a number", begin))?;
            let scale = match self.word(|c| c.is_ascii_alphabetic()) {
                "" | "s" => 1.0,
                "us" => 1e-6,
                "ms" => 1e-3,
                "m" => 60.0,
                _ => return Err(error::<Q>("an unknown unit", begin)),
            };
            return Ok(Sum::Number(number * scale));
        }
        let word = self.word(|c| c.is_ascii_alphanumeric());
        let part = self.take(".").then(|| self.word(|c| c.is_ascii_alphanumeric()));
        let none = || format!("a number{} was expected", Q::NAMES);
        let named = Q::named(word, part);
        named.map(Sum::Quantity).map_err(|what| error::<Q>(&what.map_or_else(none, str::to_owned), begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fruit {
        Apples,
        RedApples,
    }

    impl Quantity for Fruit {
        const NAMES: &'static str = " or apples";
        const WHAT: &'static str = "fruit";
        const EXAMPLE: &'static str = "a rule is like 'apples > 3'";

        fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>> {
            match (word, part) {
                ("apples", None) => Ok(Self::Apples),
                ("apples", Some("red")) => Ok(Self::RedApples),
                ("apples", Some(_)) => Err(Some("an unknown colour")),
                _ => Err(None),
            }
        }
    }

    fn parse(text: &str) -> Result<Comparison<Fruit>, SyntaxError> {
        Comparison::parse(text)
    }

    #[test]
    fn a_comparison_holds_or_does_not() {
        let value = |fruit| match fruit {
            Fruit::Apples => 9.0,
            Fruit::RedApples => 0.5,
        };
        for (text, holds) in [
            ("apples < 9", false),
            ("apples<=9", true),
            ("apples = 9", true),
            ("apples == 9 ", true),
            ("apples = 8", false),
            (" 9 >= apples", true),
            ("apples > 9", false),
            ("apples.red < 501ms", true),
            ("apples . red * 2 + 4 * (apples - 7) = 9", true),
            ("0.1 m < apples", true),
            ("apples / apples.red = 18", true),
        ] {
            assert_eq!(parse(text).map(|comparison| comparison.judge(value).holds), Ok(holds), "{text}");
        }
        let comparison = parse("apples + apples.red > apples").expect("one");
        assert_eq!(comparison.quantities(), [Fruit::Apples, Fruit::RedApples, Fruit::Apples]);
        assert_eq!(comparison.judge(value).sides, (9.5, 9.0));
    }

    #[test]
    fn what_is_none_is_refused_where_it_goes_wrong() {
        let deep = format!("{}apples < 1", "(".repeat(1_000));
        for (text, what, rest) in [
            ("", "a number or apples was expected", ""),
            ("apples", "<, <=, =, >= or > was expected", ""),
            ("apples != 1", "<, <=, =, >= or > was expected", "!= 1"),
            ("apples === 1", "a number or apples was expected", "= 1"),
            ("apples <= ", "a number or apples was expected", ""),
            ("pears <= 1", "a number or apples was expected", "pears <= 1"),
            ("apples <= 1 1", "an operator was expected", "1"),
            ("apples.round < 1", "an unknown colour", "apples.round < 1"),
            ("apples < 1 parsec", "an unknown unit", "1 parsec"),
            ("apples < 1.2.3", "not a number", "1.2.3"),
            ("(apples < 1", "')' was expected", "< 1"),
            ("1 < 2", "no fruit is named", "1 < 2"),
            (&deep, "too many brackets", &deep[100..]),
        ] {
            let error = format!("{what} {}; a rule is like 'apples > 3'", place(rest));
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(error), "{text}");
        }
    }
}
