//! The closure as a picture, in the language of Graphviz.

use std::io::{self, Write};

use soload::{Closure, Escaped};

use super::text::name;

/// One node for each object, one edge for each need; what is missing is red.
pub(super) fn write(out: &mut impl Write, closure: &Closure) -> io::Result<()> {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(out, "digraph \"{}\" {{", quoted(&name(&closure.objects[0])))?;
    for (index, object) in closure.objects.iter().enumerate() {
        let label = quoted(&Escaped(&object.name).to_string());
        let style = if object.path.is_none() { ", color=red, fontcolor=red" } else { "" };
        writeln!(out, "  n{index} [label=\"{label}\"{style}];")?;
    }
    for (index, object) in closure.objects.iter().enumerate() {
        for need in &object.needs {
            writeln!(out, "  n{index} -> n{};", need.object)?;
        }
    }
    writeln!(out, "}}")
}
