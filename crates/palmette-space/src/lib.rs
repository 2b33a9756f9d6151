//! Search spaces: a language of named choices, and what can be done with them
