//! The published architectures, drawn.

use palmette_ctr::nasrec::{Block, DenseOp, Path, Set, Shape, SparseOp};

use super::*;

/// `FC/256 EFC/48 ds=1 fm=0 D=0,2 S=0 L=1 R=0` a line: the notation of the NASRec tables.
pub fn parse(text: &str) -> Path {
    let set = |list: &str| list.split(',').map(|j| j.parse::<usize>().unwrap()).collect::<Set>();
    let block = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: usize| words[key].split_once('=').unwrap().1;
        let (dense, width) = words[0].split_once('/').unwrap();
        let (sparse, fields) = words[1].split_once('/').unwrap();
        let dense = match dense {
            "FC" => DenseOp::Fc,
            "DP" => DenseOp::DotProduct,
            "SG" => DenseOp::SigmoidGating,
            "SUM" => DenseOp::Sum,
            other => panic!("{other}"),
        };
        let sparse = if sparse == "ATT" { SparseOp::Attention } else { SparseOp::Efc };
        Block {
            dense_ops: Set::only(dense as usize),
            sparse_ops: Set::only(sparse as usize),
            dense_width: width.parse().unwrap(),
            sparse_width: fields.parse().unwrap(),
            dense_to_sparse: value(2) == "1",
            sparse_to_dense: value(3) == "1",
            dense_sources: set(value(4)),
            sparse_sources: set(value(5)),
            left: set(value(6)),
            right: set(value(7)),
        }
    };
    Path { blocks: text.lines().filter(|l| !l.trim().is_empty()).map(block).collect() }
}

/// NASRec-Small for Criteo, as published.
pub const CRITEO_SMALL: &str = "
FC/256  EFC/48 ds=1 fm=0 D=0       S=0       L=0 R=0
DP/1024 EFC/48 ds=1 fm=1 D=1       S=0,1     L=1 R=0
FC/128  EFC/16 ds=1 fm=0 D=0,2     S=0,1,2   L=0 R=0
FC/16   EFC/48 ds=0 fm=1 D=2       S=0,2     L=1 R=2
DP/128  EFC/32 ds=0 fm=0 D=0,2,3,4 S=2,4     L=2 R=0
FC/16   EFC/64 ds=1 fm=0 D=0,1,2,5 S=1,2,5   L=3 R=5
FC/1024 EFC/64 ds=0 fm=0 D=0,3,5   S=0,1,2,5 L=0 R=5";

/// NASRec-Full for Criteo.
pub const CRITEO_FULL: &str = "
SG/128 ATT/64 ds=1 fm=0 D=0       S=0       L=0 R=0
DP/32  EFC/64 ds=0 fm=0 D=0       S=0       L=0 R=1
DP/768 EFC/32 ds=0 fm=1 D=1,2     S=0,1,2   L=1 R=2
SG/768 EFC/48 ds=1 fm=0 D=0,3     S=0,1,2,3 L=2 R=0
FC/16  EFC/16 ds=0 fm=1 D=0,2,3,4 S=0,1,2,3 L=3 R=1
FC/768 ATT/16 ds=1 fm=0 D=0,3,4,5 S=1,4     L=2 R=3
FC/128 ATT/48 ds=0 fm=1 D=0,2,3   S=1,3     L=6 R=1";

/// NASRec-Small for Avazu.
pub const AVAZU_SMALL: &str = "
DP/512  EFC/64 ds=1 fm=0 D=0     S=0     L=0 R=0
FC/1024 EFC/48 ds=1 fm=0 D=0,1   S=0     L=0 R=0
FC/512  EFC/16 ds=0 fm=1 D=0,2   S=0     L=1 R=2
DP/768  EFC/48 ds=1 fm=1 D=3     S=0,3   L=2 R=0
FC/128  EFC/16 ds=1 fm=1 D=0,2,3 S=0,1   L=2 R=3
FC/128  EFC/64 ds=1 fm=0 D=1,3,4 S=0,1,3 L=0 R=3
FC/512  EFC/32 ds=1 fm=1 D=5     S=1,2,6 L=0 R=1";

/// NASRec-Full for Avazu.
pub const AVAZU_FULL: &str = "
DP/32   ATT/48 ds=1 fm=0 D=0       S=0   L=0 R=0
DP/768  EFC/64 ds=1 fm=0 D=0,1     S=0,1 L=0 R=0
FC/512  EFC/48 ds=1 fm=0 D=0       S=0   L=0 R=0
SUM/768 ATT/16 ds=1 fm=1 D=0,1,2,3 S=3   L=1 R=0
DP/768  EFC/64 ds=0 fm=0 D=2,3,4   S=2   L=0 R=3
SG/1024 EFC/64 ds=1 fm=0 D=0,1,2,5 S=0,4 L=0 R=3
SG/768  ATT/16 ds=1 fm=0 D=1,2,3,5 S=2,3 L=0 R=2";

const CRITEO: Shape = Shape { dense: 13, fields: 26 };

#[test]
fn draws_every_block_and_operator_of_the_published_networks() {
    for (name, text, shape) in [
        ("criteo-small", CRITEO_SMALL, CRITEO),
        ("criteo-full", CRITEO_FULL, CRITEO),
        ("avazu-small", AVAZU_SMALL, Shape { dense: 1, fields: 23 }),
        ("avazu-full", AVAZU_FULL, Shape { dense: 1, fields: 23 }),
    ] {
        let path = parse(text);
        let drawing = Drawing {
            title: name,
            subtitle: "as published",
            macs: &|part| (part == Part::Head).then_some(1_234_567),
            ..Drawing::new(&path, shape)
        };
        let svg = architecture_svg(&drawing).unwrap();
        for block in 1..=7 {
            assert!(svg.contains(&format!(">Block {block}<")), "{name} block {block}");
        }
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
        assert_eq!(svg.matches("Attention").count(), 2 * text.matches("ATT").count());
        assert!(svg.contains("1.23 M MACs"));
        // `PALMETTE_SHOW=folder` keeps the drawings to look at.
        if let Ok(folder) = std::env::var("PALMETTE_SHOW") {
            std::fs::write(format!("{folder}/{name}.svg"), svg).unwrap();
        }
    }
}

#[test]
fn dead_code_of_criteo_full_is_faded() {
    let path = parse(CRITEO_FULL);
    let svg = architecture_svg(&Drawing::new(&path, CRITEO)).unwrap();
    // By hand from the published table: the head reads D7 and S7, block 7 reads blocks 1 to 3,
    // and nothing of these reads a later one: both sides of blocks 4, 5 and 6 are dead.
    for block in 1..=7 {
        let dead = (4..=6).contains(&block);
        let fades = svg.contains(&format!("Block {block}, dense side: "))
            && svg.lines().any(|line| {
                line.contains(&format!("Block {block}, sparse side: "))
                    && line.contains("node sparse dead")
            });
        assert_eq!(fades, dead, "block {block}");
    }
    assert_eq!(svg.matches("; never reaches the head").count(), 6);
    // Merges that are on: 1, 4, 6 to fields; 3, 5, 7 to dense.
    assert_eq!(svg.matches("class=\"merge dead\"").count(), 3);
    assert_eq!(svg.matches("class=\"merge\"").count(), 3);
}

#[test]
fn a_source_from_the_future_is_an_error() {
    let mut path = parse(CRITEO_SMALL);
    path.blocks[2].left = Set::only(5);
    let error = architecture_svg(&Drawing::new(&path, CRITEO)).unwrap_err();
    assert_eq!(error.to_string(), "block 3 reads source 5: only 0 to 2 exist before it");
    let empty = Path::default();
    assert_eq!(architecture_svg(&Drawing::new(&empty, CRITEO)), Err(DrawingError::NoBlocks));
}

#[test]
fn supersets_and_titles_from_users_are_drawn_safely() {
    let mut path = parse(AVAZU_FULL);
    path.blocks[3].dense_ops = Set::first(5);
    path.blocks[3].sparse_ops = Set::default();
    path.blocks[4].left = Set::default();
    let title = "<script>\"&\u{1}";
    let svg = architecture_svg(&Drawing { title, ..Drawing::new(&path, CRITEO) }).unwrap();
    assert!(svg.contains("FC + DP + SG + Sum + Zero") && svg.contains("Nothing"));
    assert!(svg.contains("&lt;script&gt;&quot;&amp; ") && !svg.contains("<script>"));
}

#[test]
fn counts_have_three_figures() {
    let check = |value, expect: &str| assert_eq!(labels::count(value), expect);
    check(0, "0");
    check(999, "999");
    check(1_448_000, "1.45 M");
    check(96_040, "96.0 k");
    check(999_600, "1000 k");
    check(99_960, "100 k");
    check(33_762_577_000, "33.8 G");
}
