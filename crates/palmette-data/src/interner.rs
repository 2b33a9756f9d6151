//! Distinct texts with dense numbers, in one arena.

use xxhash_rust::xxh3::xxh3_64;

/// Texts numbered by first appearance. Open addressing over one arena: no allocation a text.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    arena: Vec<u8>,
    /// End of each text in the arena.
    ends: Vec<u64>,
    hashes: Vec<u32>,
    /// `number + 1`, 0 where free; a power of two long.
    slots: Vec<u32>,
}

impl Interner {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.arena.capacity()
            + 8 * self.ends.capacity()
            + 4 * self.hashes.capacity()
            + 4 * self.slots.capacity()
    }

    /// The text of a number.
    pub fn text(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.arena[start as usize..self.ends[number] as usize]
    }

    /// All texts in order.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|number| self.text(number))
    }

    /// The number of a text, if it is known.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = xxh3_64(text);
        match self.slots[self.slot(text, hash)] {
            0 => None,
            number => Some(number - 1),
        }
    }

    /// The number of a text, which is added if new.
    #[inline]
    pub fn intern(&mut self, text: &[u8]) -> u32 {
        if self.slots.len() < 2 * (self.ends.len() + 1) {
            self.grow();
        }
        let hash = xxh3_64(text);
        let slot = self.slot(text, hash);
        if self.slots[slot] != 0 {
            return self.slots[slot] - 1;
        }
        let number = self.ends.len() as u32;
        self.arena.extend_from_slice(text);
        self.ends.push(self.arena.len() as u64);
        self.hashes.push(hash as u32);
        self.slots[slot] = number + 1;
        number
    }

    /// The slot that holds the text, or the free one where it belongs.
    #[inline]
    fn slot(&self, text: &[u8], hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as u32 as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return slot,
                number => {
                    let number = number as usize - 1;
                    if self.hashes[number] == hash as u32 && self.text(number) == text {
                        return slot;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (2 * self.slots.len()).max(64);
        self.slots.clear();
        self.slots.resize(size, 0);
        for number in 0..self.hashes.len() {
            let mut slot = self.hashes[number] as usize & (size - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = number as u32 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_first_appearance() {
        let mut interner = Interner::default();
        let texts: Vec<String> = (0..1000).map(|i| format!("text {}", i % 300)).collect();
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(interner.intern(text.as_bytes()), (i % 300) as u32);
        }
        assert_eq!(interner.len(), 300);
        assert_eq!(interner.text(299), b"text 299");
        assert_eq!(interner.find(b"text 7"), Some(7));
        assert_eq!(interner.find(b"text 300"), None);
        assert_eq!(interner.intern(b""), 300);
        assert_eq!(interner.text(300), b"");
    }
}
