//! The digits of a code point, as the standard writes them: four at least.

/// Hexadecimal digits, without an allocation and without the machinery of formatting: there are many of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hex {
    digits: [u8; 8],
    begin: usize,
}

impl Hex {
    pub(super) fn new(code: u32) -> Self {
        let digit = |place: u32| b"0123456789ABCDEF"[(code >> (4 * place) & 0xf) as usize];
        let digits = [7, 6, 5, 4, 3, 2, 1, 0].map(digit);
        let begin = digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len()).min(4);
        Self { digits, begin }
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.digits[self.begin..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_format_has_them() {
        for code in [0, 0xf, 0x41, 0xfff, 0x1000, 0xffff, 0x1_0000, 0x10_ffff, u32::MAX] {
            assert_eq!(Hex::new(code).as_str(), format!("{code:04X}"));
        }
    }
}
