#![allow(clippy::neg_cmp_op_on_partial_ord)] // a NaN must fail its check
//! Checks and times the GPU executor of jagged flash attention.
//!
//! ```text
//! gpu_attention compile [ARCH [WORD]]  compile every kernel, or those whose source has WORD in its
//!                                     name (no GPU), print registers and spills
//! gpu_attention precompile I N         compile part I of N of what check and bench use
//! gpu_attention check [--require wgmma] [--path PATH] [--only WORD]   compare every path with the f64 definition
//! gpu_attention operators [--only WORD]  compare the small operators, pooled and HSTU forms
//! gpu_attention small [--only WORD] FILE...   time the small operators, or those with WORD in their name
//! gpu_attention bench FILE...         time the workloads whose row lengths (i32) the files hold
//! gpu_attention fast FILE...          of those, only the fast mode's backward
//! gpu_attention causal [--only WORD] FILE...   a causal mask beside none, in turns, or the lines with WORD
//! gpu_attention shapes [--only WORD] FILE...   the forward's shapes beside the one that plans choose, in turns
//! gpu_attention types FILE...         f16 beside bf16, in turns
//! ```

mod bench;
mod buffers;
mod check;
mod operators;
mod rows;
mod small;
mod turns;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["compile"] => compile("sm_90a", ""),
        ["compile", arch] => compile(arch, ""),
        ["compile", arch, word] => compile(arch, word),
        ["precompile", part, parts] => precompile(part, parts),
        ["check", ref rest @ ..] => {
            let require = after(rest, "--require");
            if !["", "wgmma"].contains(&require) {
                Err(format!("only wgmma can be required, not {require}").into())
            } else {
                check::check(require == "wgmma", after(rest, "--only"), after(rest, "--path"))
            }
        }
        ["operators", ref rest @ ..] => operators::check(after(rest, "--only")),
        ["small", "--only", word, ref files @ ..] => small::bench(word, files),
        ["small", ref files @ ..] => small::bench("", files),
        ["bench", ref files @ ..] => bench::bench(files),
        ["fast", ref files @ ..] => turns::fast(files),
        ["causal", "--only", word, ref files @ ..] => turns::causal(word, files),
        ["causal", ref files @ ..] => turns::causal("", files),
        ["shapes", "--only", word, ref files @ ..] => turns::shapes(word, files),
        ["shapes", ref files @ ..] => turns::shapes("", files),
        ["types", ref files @ ..] => turns::types(files),
        _ => {
            Err("usage: gpu_attention compile [ARCH] | check [--require wgmma] [--only WORD] | operators [--only WORD] | small [--only WORD] FILE... | bench FILE... | fast FILE... | causal [--only WORD] FILE... | shapes [--only WORD] FILE... | types FILE..."
                .into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The word after `name`, or nothing.
fn after<'a>(words: &[&'a str], name: &str) -> &'a str {
    let at = words.iter().position(|&word| word == name);
    at.and_then(|at| words.get(at + 1)).copied().unwrap_or("")
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn compile(arch: &str, word: &str) -> Outcome {
    for compiled in palmette_jagged::cuda::compile_report(arch, word)? {
        let serialized = compiled.report.matches("instructions are serialized").count();
        println!(
            "{} ({} bytes){}",
            compiled.name,
            compiled.binary.len(),
            if serialized > 0 { " SERIALIZED" } else { "" }
        );
        for line in compiled.report.lines() {
            if line.contains("spill") || line.contains("Used") || line.contains("properties for") {
                println!("    {}", line.trim_start_matches("ptxas info    :").trim());
            }
        }
    }
    Ok(())
}

/// Kernels into the cache, so that several processes share the compilation.
fn precompile(part: &str, parts: &str) -> Outcome {
    let (part, parts): (usize, usize) = (part.parse()?, parts.parse()?);
    let mut jobs = check::plans();
    jobs.extend(bench::plans());
    for (element, head_dim, options) in jobs.into_iter().skip(part).step_by(parts.max(1)) {
        palmette_jagged::cuda::precompile("sm_90a", element, head_dim, &options)?;
    }
    Ok(())
}
