//! The power of two choices, on `discovery::pick`.

use tower_mesh_discovery::pick::distinct_pair;

use crate::case::{Case, Outcome, same, unknown, whole};

pub(crate) fn p2c_distinct(case: &Case) -> Outcome {
    let len = case.given.whole("len")? as usize;
    let pair = |value: &serde_json::Value| {
        let pair = value.as_array().filter(|pair| pair.len() == 2).ok_or_else(|| unknown(value))?;
        let index = |i: usize| whole(&pair[i]).map(|index| index as usize).ok_or_else(|| unknown(value));
        Ok::<_, String>((index(0)?, index(1)?))
    };
    let draws: Vec<_> = case.given.list("draws")?.iter().map(pair).collect::<Result<_, _>>()?;
    if let Some(draw) = draws.iter().find(|&&(a, b)| a >= len || b >= len - 1) {
        return Err(unknown(draw));
    }
    let pairs: Vec<_> = draws.into_iter().map(|(a, b)| distinct_pair(a, b)).collect();
    let expected: Vec<_> = case.expect.list("pairs")?.iter().map(pair).collect::<Result<_, _>>()?;
    same("pairs", &pairs, &expected)
}
