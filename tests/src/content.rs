//! Files of which every byte is known from its position, so that none has to be kept to check a transfer.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

/// Content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    seed: u64,
    len: u64,
}

impl Content {
    /// `len` bytes; files of different seeds differ everywhere.
    #[must_use]
    pub fn new(seed: u64, len: u64) -> Self {
        Self { seed, len }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `count` bytes from position `at` on.
    #[must_use]
    pub fn part(&self, at: u64, count: u64) -> Vec<u8> {
        (at..at + count).map(|at| self.byte(at)).collect()
    }

    /// Checks bytes that came from position `at` on.
    ///
    /// # Errors
    /// Names the first that is wrong.
    pub fn check(&self, at: u64, bytes: &[u8]) -> Result<()> {
        for (&byte, at) in bytes.iter().zip(at..) {
            ensure!(
                at < self.len && byte == self.byte(at),
                "byte {at} of {} is {byte:#04x} instead of {:#04x}",
                self.len,
                self.byte(at)
            );
        }
        Ok(())
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        file.write_all(&self.part(0, self.len))?;
        Ok(file.flush()?)
    }

    /// Checks that a file holds exactly this.
    ///
    /// # Errors
    /// When it cannot be read, has another length, or a byte is wrong.
    pub fn check_file(&self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path)?;
        ensure!(
            bytes.len() as u64 == self.len,
            "{} has {} instead of {} bytes",
            path.display(),
            bytes.len(),
            self.len
        );
        self.check(0, &bytes)
    }

    /// Every 8 bytes are a splitmix64 of their position: cheap, and no two places look alike.
    fn byte(&self, at: u64) -> u8 {
        let mut word = (self.seed << 40).wrapping_add(at / 8 + 1);
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        word.to_le_bytes()[(at % 8) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_one_too_many_and_one_too_few_are_seen() {
        let content = Content::new(7, 1000);
        let mut bytes = content.part(0, 1000);
        content.check(0, &bytes).expect("as it should be");
        content.check(990, &bytes[990..]).expect("from the middle");
        bytes.push(0);
        assert!(content.check(0, &bytes).is_err());
        bytes.truncate(1000);
        bytes[999] ^= 1;
        let error = content.check(0, &bytes).expect_err("flipped").to_string();
        assert!(error.contains("byte 999"), "{error}");
        assert!(Content::new(8, 1000).check(0, &content.part(0, 8)).is_err());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        content.write_to(&path).expect("written");
        content.check_file(&path).expect("whole");
        assert!(Content::new(7, 1001).check_file(&path).is_err());
    }
}
