//! Search strategies, predictors and rank statistics over any space
