//! `soload inspect --json`: `{"schema": 1, "command": "inspect", "files": […]}`.
//!
//! Each file has `path`, `ok` and `errors` (`kind`, `message`, `object`, `help`); as far as they could be read, `class`
//! (32 or 64), `byte_order`, `machine`, `type`; and if the headers are sound, all else: `debug_only` (the debug
//! information of another file, without the bytes of its segments), `soname`, `build_id`, `interpreter`, `needed`, `rpath`, `runpath` (`null` where it has none), `plan` (see `memory.rs`; `null` if there is
//! nothing to map), `other_page_sizes` (`bytes`, `fits`; `pages` and the `forecast` of private ones), `relocations` (`total`, `by_kind`, `by_type`), `symbols`
//! (`exported`, `imported`), `versions_needed` (`object`, `version`, `weak`), `versions_defined`, `constructors`,
//! `destructors`, `thread_local` (`bytes`, `align`), `hash_table` (its `kind`, counts, and averages), `flags`, `hardening`. What a damaged table hides is `null`. If the
//! headers are not sound, `program_headers` has them as they stand.
//!
//! Sizes, addresses and offsets are numbers of bytes. Text that is not UTF-8 is lossy; the same name with `_bytes`
//! behind it has it in hexadecimal then (`path_bytes`; for lists, all of the list).

use serde_json::{Map, Value, json};
use soload::{ByteOrder, Class, Outline, ProgramHeader, VersionNeed};

use super::facts::{Contents, Facts, SearchDir, kind_of};
use crate::cli::{memory, print};

pub(super) fn document(files: Vec<Value>) -> Value {
    json!({"schema": 1, "command": "inspect", "files": files})
}

pub(super) fn of(facts: &Facts<'_>) -> Value {
    let mut object = Map::new();
    print::put_path(&mut object, "path", facts.path);
    object.insert("ok".into(), facts.errors.is_empty().into());
    object.insert("errors".into(), facts.errors.iter().map(print::json_of_error).collect());
    if let Some(outline) = &facts.outline {
        put_outline(&mut object, outline);
    }
    match (&facts.contents, &facts.outline) {
        (Some(contents), _) => put_contents(&mut object, contents),
        (None, Some(Outline { program_headers: Ok(headers), .. })) => {
            object.insert("program_headers".into(), headers.iter().map(of_header).collect());
        }
        _ => {}
    }
    object.into()
}

fn put_outline(object: &mut Map<String, Value>, outline: &Outline) {
    let class = if outline.class == Class::Elf64 { 64 } else { 32 };
    let order = if outline.byte_order == ByteOrder::Little { "little" } else { "big" };
    object.insert("class".into(), class.into());
    object.insert("byte_order".into(), order.into());
    object.insert("machine".into(), outline.machine_name().into());
    object.insert("type".into(), kind_of(outline.elf_type).into());
}

fn of_header(header: &ProgramHeader) -> Value {
    json!({
        "type": header.kind,
        "flags": header.flags.to_string(),
        "offset": header.offset,
        "vaddr": header.vaddr.0,
        "file_size": header.file_size,
        "memory_size": header.memory_size,
        "align": header.align,
    })
}

fn put_contents(object: &mut Map<String, Value>, contents: &Contents) {
    let image = &contents.image;
    object.insert("type".into(), contents.kind().into());
    object.insert("build_id".into(), json!(image.build_id().map(|id| print::hex(&id))));
    for (key, text) in [
        ("soname", image.soname()),
        ("interpreter", image.interpreter()),
        ("rpath", image.rpath()),
        ("runpath", image.runpath()),
    ] {
        match text {
            Some(text) => print::put_bytes(object, key, text),
            None => drop(object.insert(key.into(), Value::Null)),
        }
    }
    put_list(object, "needed", image.needed());
    match &contents.versions_defined {
        Some(versions) => put_list(object, "versions_defined", versions.iter().map(Vec::as_slice)),
        None => drop(object.insert("versions_defined".into(), Value::Null)),
    }
    let life = image.life_functions();
    let plan = contents.plan.as_ref().map(|(plan, regions)| memory::json_of(plan, regions));
    let sizes = contents.other_page_sizes.iter().map(|(size, extent)| {
        let pages = extent.as_ref().map(|extent| extent.pages);
        let private = extent.as_ref().and_then(|extent| extent.private);
        json!({"bytes": size.bytes(), "fits": extent.is_some(), "pages": pages, "forecast": private})
    });
    let symbols = contents.symbols;
    let rest = json!({
        "debug_only": contents.is_debug_only(),
        "plan": plan,
        "other_page_sizes": sizes.collect::<Vec<_>>(),
        "relocations": relocations(contents),
        "symbols": symbols.map(|count| json!({"exported": count.exported, "imported": count.imported})),
        "versions_needed": contents.versions_needed.as_ref().map(|needs| needs.iter().map(need).collect::<Vec<_>>()),
        "constructors": life.constructors,
        "destructors": life.destructors,
        "thread_local": image.thread_local().map(|(bytes, align)| json!({"bytes": bytes, "align": align})),
        "hash_table": contents.hash.map(|hash| json!({
            "kind": if hash.gnu { "gnu" } else { "sysv" },
            "buckets": hash.buckets,
            "empty_buckets": hash.empty_buckets,
            "symbols": hash.symbols,
            "longest_chain": hash.longest_chain,
            "compared_if_found": hash.compared_if_found,
            "passed_if_absent": hash.passed_if_absent,
        })),
        "flags": image.loading_flags(),
        "hardening": hardening(contents),
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
}

fn put_list<'a>(object: &mut Map<String, Value>, key: &str, list: impl Iterator<Item = &'a [u8]>) {
    let list: Vec<_> = list.collect();
    let texts = list.iter().map(|text| Value::from(String::from_utf8_lossy(text)));
    object.insert(key.into(), texts.collect());
    if list.iter().any(|text| str::from_utf8(text).is_err()) {
        object.insert(format!("{key}_bytes"), list.iter().map(|text| Value::from(print::hex(text))).collect());
    }
}

fn relocations(contents: &Contents) -> Value {
    let Some(counts) = &contents.relocations else { return Value::Null };
    let by_kind: Map<_, _> =
        contents.relocation_groups().into_iter().map(|(group, count)| (group.to_owned(), count.into())).collect();
    let by_type: Map<_, _> = counts.iter().map(|count| (count.name.clone(), count.count.into())).collect();
    let total: u64 = counts.iter().map(|count| count.count).sum();
    json!({"total": total, "by_kind": by_kind, "by_type": by_type})
}

fn need(need: &VersionNeed) -> Value {
    let mut object = Map::new();
    print::put_bytes(&mut object, "object", &need.object);
    print::put_bytes(&mut object, "version", &need.version);
    object.insert("weak".into(), need.weak.into());
    object.into()
}

fn hardening(contents: &Contents) -> Value {
    let image = &contents.image;
    let dangers = contents.search_path.iter().filter_map(|SearchDir { text, danger }| {
        let mut object = Map::new();
        print::put_bytes(&mut object, "directory", text);
        object.insert("danger".into(), (*danger)?.into());
        Some(Value::from(object))
    });
    json!({
        "position_independent": contents.is_position_independent(),
        "relro": contents.relro(),
        "bind_now": image.binds_now(),
        "executable_stack": image.wants_executable_stack(),
        "writable_executable_segments": contents.writable_executable(),
        "text_relocations": image.has_text_relocations(),
        "branch_protection": image.branch_protection(),
        "stack_canary": contents.checks.as_ref().map(|checks| checks.stack_canary),
        "fortified": contents.checks.as_ref().map(|checks| &checks.fortified),
        "unfortified": contents.checks.as_ref().map(|checks| &checks.unfortified),
        "dangerous_search_path": dangers.collect::<Vec<_>>(),
    })
}
