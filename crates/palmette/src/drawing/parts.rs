//! The drawing itself: lines first, boxes over them.

use palmette_ctr::nasrec::{BlockLiveness, EMBEDDING_DIM, MERGE_FIELDS, liveness};

use super::{
    Drawing, Part,
    labels::{count, dense_name, dense_size, fields, sources, sparse_name, sparse_size},
    layout::{BOX_HEIGHT, BOX_WIDTH, LEGEND_ENTRIES, LEGEND_KEY, Layout},
    lines::{End, Reach, dense_trunks, reaches, sparse_trunk},
    svg::{Canvas, escape, number},
};

const STYLE: &str = include_str!("style.css");
const CORNER: f64 = 7.0;

/// Which of the two worlds a line belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Dense,
    Sparse,
}

struct Painter<'a> {
    drawing: &'a Drawing<'a>,
    layout: Layout,
    live: Vec<BlockLiveness>,
    canvas: Canvas,
}

pub fn draw(drawing: &Drawing) -> String {
    let layout = Layout::new(drawing.path.blocks.len());
    let live = liveness(drawing.path);
    let mut painter = Painter { drawing, layout, live, canvas: Canvas::default() };
    painter.open();
    let (dense, sparse) = reaches(drawing.path, &painter.live);
    for source in 0..drawing.path.blocks.len() {
        painter.source_line(Side::Dense, source, dense[source]);
        painter.source_line(Side::Sparse, source, sparse[source]);
    }
    painter.inputs(dense[0].live.is_some(), sparse[0].live.is_some());
    for block in 1..=drawing.path.blocks.len() {
        painter.trunks(block);
        painter.merges(block);
        painter.boxes(block);
    }
    painter.head();
    painter.legend();
    painter.canvas.raw("</svg>\n");
    painter.canvas.finish()
}

fn faded(live: bool) -> &'static str {
    if live { "" } else { " dead" }
}

impl Painter<'_> {
    fn open(&mut self) {
        let [width, height] = [self.layout.width(), self.layout.height()].map(number);
        let title = match self.drawing.title {
            "" => "Architecture",
            title => title,
        };
        let blocks = self.drawing.path.blocks.len();
        self.canvas.raw(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"palmette-architecture\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{}: {blocks} blocks from inputs to head\">\n\
             <style>{STYLE}</style>\n<defs>",
            escape(title),
        ));
        for (name, colour) in [("dense", "#4656b8"), ("sparse", "#157a6c"), ("merge", "#b3691e")] {
            self.canvas.raw(format_args!(
                "<marker id=\"palmette-arrow-{name}\" viewBox=\"0 0 8 8\" refX=\"6.5\" refY=\"4\" \
                 markerWidth=\"7\" markerHeight=\"7\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
                 <path d=\"M0 0.6 8 4 0 7.4z\" fill=\"{colour}\"/></marker>"
            ));
        }
        self.canvas.raw("</defs>\n");
        self.canvas.rect(
            "paper",
            0.5,
            0.5,
            self.layout.width() - 1.0,
            self.layout.height() - 1.0,
            12.0,
        );
        self.canvas.text("heading", self.layout.input_left(), 34.0, self.drawing.title);
        self.canvas.text("subtitle", self.layout.input_left(), 54.0, self.drawing.subtitle);
    }

    fn line_y(&self, side: Side, source: usize) -> f64 {
        match side {
            Side::Dense => self.layout.dense_line(source),
            Side::Sparse => self.layout.sparse_line(source),
        }
    }

    /// Vertical middle of the boxes of one side.
    fn middle(&self, side: Side) -> f64 {
        BOX_HEIGHT / 2.0
            + match side {
                Side::Dense => self.layout.dense_top(),
                Side::Sparse => self.layout.sparse_top(),
            }
    }

    fn size(&self, side: Side, source: usize) -> usize {
        let Drawing { path, shape, .. } = *self.drawing;
        match side {
            Side::Dense => path.dense_width(shape, source),
            Side::Sparse => path.sparse_fields(shape, source),
        }
    }

    /// The output of a block on its way: out of the box, to its line, along to the last reader.
    fn source_line(&mut self, side: Side, source: usize, reach: Reach) {
        let (y, from, riser) =
            (self.line_y(side, source), self.middle(side), self.layout.riser(source));
        let start = match source {
            0 => self.layout.input_left() + BOX_WIDTH - 8.0,
            block => self.layout.box_left(block) + BOX_WIDTH,
        };
        // Short of every line into the next block.
        let stub = riser + 9.0;
        let ends = |end: Option<End>| match end {
            Some(end) => self.layout.trunk(end.block, end.slot),
            None => stub,
        };
        let (class, letter, unit) = match side {
            Side::Dense => ("dense", 'D', "values"),
            Side::Sparse => ("sparse", 'S', "fields"),
        };
        let size = self.size(side, source);
        let live = reach.live.is_some();
        let stroke =
            format!("stroke-width=\"{}\"", number(1.2 + 0.2 * (size as f64).log2().max(0.0)));
        let tooltip = match (reach.any, live) {
            (None, _) => format!("{letter}{source}: {size} {unit}, read by nobody"),
            (_, false) => format!("{letter}{source}: {size} {unit}, never reaches the head"),
            _ => format!("{letter}{source}: {size} {unit}"),
        };
        self.canvas.group("line", &tooltip);
        // Beyond the last live reader only the faded part goes on.
        if reach.any != reach.live {
            let begin = if live { ends(reach.live) } else { start };
            let end = ends(reach.any);
            let tail = [(begin, y), (end, y)];
            let whole = [(start, from), (riser, from), (riser, y), (end, y)];
            let points = if live { &tail[..] } else { &whole[..] };
            self.canvas.route(&format!("wire {class} dead"), &stroke, points, CORNER);
        }
        if live || reach.any.is_none() {
            let points = [(start, from), (riser, from), (riser, y), (ends(reach.live), y)];
            self.canvas.route(&format!("wire {class}{}", faded(live)), &stroke, &points, CORNER);
        }
        let unread = if reach.any.is_none() { ", unread" } else { "" };
        let label = format!("{letter}{source} · {size}{unread}");
        let x = riser + 34.0 + if source == 0 { 12.0 } else { 0.0 };
        self.canvas.text(&format!("label {class}{}", faded(live)), x, y - 4.0, &label);
        self.canvas.end();
    }

    fn trunks(&mut self, number: usize) {
        let block = &self.drawing.path.blocks[number - 1];
        let live = self.live[number - 1];
        let left = self.layout.box_left(number);
        let trunks = dense_trunks(block, live);
        let dense_middle = self.middle(Side::Dense);
        let several = trunks.len() > 1;
        for (slot, trunk) in trunks.iter().enumerate() {
            let x = self.layout.trunk(number, slot);
            // The outermost line enters lowest, so that they do not cross.
            let enter =
                if several { dense_middle - 14.0 + 13.0 * slot as f64 } else { dense_middle };
            let top = trunk.sources.iter().next().map_or(enter, |s| self.layout.dense_line(s));
            let class = format!("tap dense{}", faded(trunk.live));
            let tooltip = match trunk.label {
                "L" => format!("Left operand: {}", sources('D', trunk.sources)),
                "R" => format!("Right operand: {}", sources('D', trunk.sources)),
                _ => format!("Concatenates {}", sources('D', trunk.sources)),
            };
            self.canvas.group("trunk", &tooltip);
            self.canvas.route(
                &class,
                ARROW_DENSE,
                &[(x, top), (x, enter), (left - 2.0, enter)],
                CORNER,
            );
            let radius = if trunk.label.is_empty() { 3.4 } else { 6.5 };
            for source in trunk.sources.iter() {
                let y = self.layout.dense_line(source);
                let class = format!("dot dense{}", faded(trunk.live));
                self.canvas.circle(&class, x, y, radius);
                if !trunk.label.is_empty() {
                    self.canvas.text("operand", x, y + 3.3, trunk.label);
                }
            }
            self.canvas.end();
        }
        self.sparse_trunk(number);
    }

    fn sparse_trunk(&mut self, number: usize) {
        let block = &self.drawing.path.blocks[number - 1];
        let Some(trunk) = sparse_trunk(block, self.live[number - 1]) else { return };
        let (left, x) = (self.layout.box_left(number), self.layout.trunk(number, 0));
        let middle = self.middle(Side::Sparse);
        let oldest = trunk.sources.iter().next().unwrap_or(0);
        let bottom = self.layout.sparse_line(oldest);
        let tooltip = format!("Stacks {}", sources('S', trunk.sources));
        self.canvas.group("trunk", &tooltip);
        // A faded reader is drawn first, so that the shared part of the line shows as live.
        let mut readers = Vec::new();
        if let Some(live) = trunk.pairs {
            let enter = self.middle(Side::Dense) + 15.0;
            readers.push((live, vec![(x, bottom), (x, enter), (left - 2.0, enter)]));
        }
        if let Some(live) = trunk.mixes {
            readers.push((live, vec![(x, bottom), (x, middle), (left - 2.0, middle)]));
        }
        readers.sort_by_key(|reader| reader.0);
        for (live, points) in readers {
            let class = format!("tap sparse{}", faded(live));
            self.canvas.route(&class, ARROW_SPARSE, &points, CORNER);
        }
        for source in trunk.sources.iter() {
            let y = self.layout.sparse_line(source);
            self.canvas.circle(&format!("dot sparse{}", faded(trunk.live())), x, y, 3.4);
        }
        self.canvas.end();
    }

    fn merges(&mut self, number: usize) {
        let block = &self.drawing.path.blocks[number - 1];
        let live = self.live[number - 1];
        let left = self.layout.box_left(number);
        let (top, bottom) = (self.layout.dense_top() + BOX_HEIGHT, self.layout.sparse_top());
        let middle = (top + bottom) / 2.0;
        if block.dense_to_sparse {
            let x = left + BOX_WIDTH * 0.27;
            let cost = self.cost(Part::DenseToSparse(number));
            let tooltip = format!(
                "Dense-to-sparse merge: the dense output as {MERGE_FIELDS} more fields{cost}"
            );
            self.canvas.group(&format!("merge{}", faded(live.sparse_output)), &tooltip);
            self.canvas.route("arrow", ARROW_MERGE, &[(x, top), (x, bottom - 2.0)], 0.0);
            self.pill(x, middle, &format!("{MERGE_FIELDS} fields"), 50.0);
            self.canvas.end();
        }
        if block.sparse_to_dense {
            let x = left + BOX_WIDTH * 0.77;
            let cost = self.cost(Part::SparseToDense(number));
            let tooltip = format!("Sparse-to-dense merge: adds a factorisation-machine term{cost}");
            self.canvas.group(&format!("merge{}", faded(live.dense_output)), &tooltip);
            self.canvas.route("arrow", ARROW_MERGE, &[(x, bottom), (x, top + 2.0)], 0.0);
            self.pill(x, middle, "FM", 30.0);
            self.canvas.end();
        }
    }

    fn pill(&mut self, x: f64, y: f64, text: &str, width: f64) {
        self.canvas.rect("pill", x - width / 2.0, y - 9.0, width, 18.0, 9.0);
        self.canvas.text("pill-text", x, y + 3.5, text);
    }

    fn cost(&self, part: Part) -> String {
        match (self.drawing.macs)(part) {
            Some(macs) => format!(", {} MACs", count(macs)),
            None => String::new(),
        }
    }

    fn boxes(&mut self, number: usize) {
        let block = &self.drawing.path.blocks[number - 1];
        let live = self.live[number - 1];
        let left = self.layout.box_left(number);
        let mut read = Vec::new();
        let dense = dense_trunks(block, live);
        for trunk in dense.iter().rev() {
            let label = if trunk.label.is_empty() { "" } else { " as " };
            read.push(format!("{}{label}{}", sources('D', trunk.sources), trunk.label));
        }
        let trunk = sparse_trunk(block, live);
        if let Some(trunk) = trunk.as_ref().filter(|t| t.pairs.is_some()) {
            read.push(sources('S', trunk.sources));
        }
        let name = dense_name(block);
        let tooltip = format!(
            "Block {number}, dense side: {name}, {}; reads {}{}{}",
            dense_size(block),
            if read.is_empty() { "nothing".into() } else { read.join(", ") },
            self.cost(Part::Dense(number)),
            if live.dense_operator { "" } else { "; never reaches the head" },
        );
        let top = self.layout.dense_top();
        self.node("dense", left, top, &tooltip, [&name, &dense_size(block)], live.dense_operator);

        let name = sparse_name(block);
        let read = trunk.filter(|t| t.mixes.is_some()).map(|t| sources('S', t.sources));
        let tooltip = format!(
            "Block {number}, sparse side: {name}, {}; reads {}{}{}",
            sparse_size(block),
            read.unwrap_or_else(|| "nothing".into()),
            self.cost(Part::Sparse(number)),
            if live.sparse_operator { "" } else { "; never reaches the head" },
        );
        let top = self.layout.sparse_top();
        self.node(
            "sparse",
            left,
            top,
            &tooltip,
            [&name, &sparse_size(block)],
            live.sparse_operator,
        );

        let class = format!("block-number{}", faded(!live.is_dead()));
        let y = self.layout.dense_top() - 8.0;
        self.canvas.text(&class, left + BOX_WIDTH / 2.0, y, &format!("Block {number}"));
    }

    fn node(&mut self, class: &str, x: f64, y: f64, tooltip: &str, lines: [&str; 2], live: bool) {
        self.canvas.group(&format!("node {class}{}", faded(live)), tooltip);
        self.canvas.rect("box", x, y, BOX_WIDTH, BOX_HEIGHT, 8.0);
        let centre = x + BOX_WIDTH / 2.0;
        self.canvas.text("name", centre, y + 22.0, lines[0]);
        self.canvas.text("size", centre, y + 38.0, lines[1]);
        self.canvas.end();
    }

    fn inputs(&mut self, dense_live: bool, sparse_live: bool) {
        let shape = self.drawing.shape;
        let left = self.layout.input_left() - 8.0;
        let dense =
            format!("{} {}", shape.dense, if shape.dense == 1 { "number" } else { "numbers" });
        let tooltip = format!("D0: {} dense inputs", shape.dense);
        self.node(
            "dense input",
            left,
            self.layout.dense_top(),
            &tooltip,
            ["Dense inputs", &dense],
            dense_live,
        );
        let tooltip = format!(
            "S0: {} categorical fields, embedded in {EMBEDDING_DIM} dimensions each",
            shape.fields
        );
        let size = fields(shape.fields);
        self.node(
            "sparse input",
            left,
            self.layout.sparse_top(),
            &tooltip,
            ["Embeddings", &size],
            sparse_live,
        );
    }

    fn head(&mut self) {
        let blocks = self.drawing.path.blocks.len();
        let (x, width) = (self.layout.head_left(), self.layout.head_width());
        let from = self.layout.box_left(blocks) + BOX_WIDTH;
        let (top, bottom) = (self.middle(Side::Dense), self.middle(Side::Sparse));
        let shape = self.drawing.shape;
        let (d, s) = (
            self.drawing.path.dense_width(shape, blocks),
            self.drawing.path.sparse_fields(shape, blocks),
        );
        let tooltip = format!(
            "Head: one linear unit on D{blocks} and the flattened S{blocks}, {} inputs{}",
            d + EMBEDDING_DIM * s,
            self.cost(Part::Head)
        );
        self.canvas.group("line", &format!("D{blocks}: {d} values; S{blocks}: {s} fields"));
        self.canvas.route("tap dense", ARROW_DENSE, &[(from, top), (x - 2.0, top)], 0.0);
        self.canvas.route("tap sparse", ARROW_SPARSE, &[(from, bottom), (x - 2.0, bottom)], 0.0);
        self.canvas.end();
        let (box_top, box_height) =
            (self.layout.dense_top(), bottom + BOX_HEIGHT / 2.0 - self.layout.dense_top());
        let centre = x + width / 2.0;
        let middle = box_top + box_height / 2.0;
        self.canvas.group("node head", &tooltip);
        self.canvas.rect("box", x, box_top, width, box_height, 8.0);
        self.canvas.text("name", centre, middle - 10.0, "Head");
        self.canvas.text("size", centre, middle + 7.0, "linear, sigmoid");
        self.canvas.text("size", centre, middle + 24.0, "P(click)");
        self.canvas.end();
    }

    fn legend(&mut self) {
        let (mut x, mut y) = (self.layout.input_left(), self.layout.legend_top());
        let breaks = self.layout.legend_breaks();
        for ((kind, words, advance), new_line) in LEGEND_ENTRIES.into_iter().zip(breaks) {
            if new_line {
                (x, y) = (self.layout.input_left(), y + 22.0);
            }
            match kind {
                "dot" => self.canvas.circle("dot neutral", x + 12.0, y - 4.0, 3.4),
                "operand" => {
                    self.canvas.circle("dot neutral", x + 12.0, y - 4.0, 6.5);
                    self.canvas.text("operand", x + 12.0, y - 0.7, "L");
                }
                "dead" => self.canvas.route(
                    "wire neutral dead",
                    "stroke-width=\"2.4\"",
                    &[(x, y - 4.0), (x + 24.0, y - 4.0)],
                    0.0,
                ),
                side => self.canvas.route(
                    &format!("wire {side}"),
                    "stroke-width=\"2.4\"",
                    &[(x, y - 4.0), (x + 24.0, y - 4.0)],
                    0.0,
                ),
            }
            self.canvas.text("legend", x + LEGEND_KEY, y, words);
            x += advance + LEGEND_KEY;
        }
    }
}

const ARROW_DENSE: &str = "marker-end=\"url(#palmette-arrow-dense)\"";
const ARROW_SPARSE: &str = "marker-end=\"url(#palmette-arrow-sparse)\"";
const ARROW_MERGE: &str = "marker-end=\"url(#palmette-arrow-merge)\"";
