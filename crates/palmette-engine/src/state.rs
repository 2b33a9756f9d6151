//! Saving and loading the numbers of a model.

use std::io::{Read, Write};

use crate::memory::Zeroed;
use crate::params::ParamStore;
use crate::tables::{Table, Tables};
use crate::{EngineError, Model, Real};

/// Bytes moved at a time.
const BLOCK: usize = 1 << 20;

impl<T: Real> Model<T> {
    /// A model with the same weights, tables and optimiser state.
    ///
    /// # Errors
    /// When the system has not enough memory.
    pub fn try_clone(&self) -> Result<Self, EngineError> {
        let params = ParamStore {
            layout: self.params.layout.clone(),
            values: self.params.values.try_clone()?,
            state: self.params.state.iter().map(Zeroed::try_clone).collect::<Result<_, _>>()?,
        };
        let tables = self.tables.tables.iter().map(Table::try_clone).collect::<Result<_, _>>()?;
        Ok(Self { params, tables: Tables { tables } })
    }

    /// Writes all weights, tables and optimiser state as raw little-endian numbers, in the order
    /// of their declaration.
    pub fn write_state(&self, out: &mut impl Write) -> Result<(), EngineError> {
        self.arrays().try_for_each(|array| write_array(array, out))
    }

    /// Reads what [`Model::write_state`] wrote for a model of the same layout.
    pub fn read_state(&mut self, input: &mut impl Read) -> Result<(), EngineError> {
        let params = std::iter::once(&mut self.params.values).chain(&mut self.params.state);
        let tables = self.tables.tables.iter_mut().map(|t| &mut t.data);
        params.chain(tables).try_for_each(|array| read_array(array, input))?;
        let mut rest = [0u8; 1];
        if input.read(&mut rest)? != 0 {
            return Err(EngineError::State { reason: "it is longer than the model".into() });
        }
        Ok(())
    }

    /// Bytes that [`Model::write_state`] writes.
    pub fn state_bytes(&self) -> u64 {
        self.arrays().map(|array| (array.len() * size_of::<T>()) as u64).sum()
    }

    fn arrays(&self) -> impl Iterator<Item = &Zeroed<T>> {
        std::iter::once(&self.params.values)
            .chain(&self.params.state)
            .chain(self.tables.tables.iter().map(|t| &t.data))
    }
}

fn write_array<T: Real>(array: &Zeroed<T>, out: &mut impl Write) -> Result<(), EngineError> {
    let mut bytes = Vec::with_capacity(BLOCK);
    for block in array.as_slice().chunks(BLOCK / size_of::<T>()) {
        bytes.clear();
        block.iter().for_each(|x| x.write_le(&mut bytes));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read_array<T: Real>(array: &mut Zeroed<T>, input: &mut impl Read) -> Result<(), EngineError> {
    let mut bytes = vec![0u8; BLOCK];
    for block in array.as_mut_slice().chunks_mut(BLOCK / size_of::<T>()) {
        let bytes = &mut bytes[..size_of_val(block)];
        input.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                EngineError::State { reason: "it is shorter than the model".into() }
            }
            _ => e.into(),
        })?;
        for (x, bytes) in block.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *x = T::read_le(bytes);
        }
    }
    Ok(())
}
