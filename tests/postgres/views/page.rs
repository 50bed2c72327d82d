//! What is written about tables and views is what they are.

use super::{Tables, VIEWS};

const PAGE: &str = include_str!("../../../docs/format.md");

/// The lines of the chapter below one of its headings.
fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n#").next().unwrap()
}

#[tokio::test]
async fn every_table_and_view_is_on_the_page_with_its_columns() {
    let tables = Tables::new().await;
    let ask =
        "SELECT table_name::text, table_type::text, string_agg(column_name, ', ' ORDER BY ordinal_position)
               FROM information_schema.tables JOIN information_schema.columns USING (table_schema, table_name)
               WHERE table_schema = 'entity' GROUP BY 1, 2";
    let rows = tables.client.query(ask, &[]).await.unwrap();
    assert!(VIEWS.len() + 12 <= rows.len(), "{} tables and views", rows.len());
    for row in rows {
        let (name, kind, columns) = (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2));
        let section = section(if kind == "VIEW" { "Views" } else { "Tables" });
        let line = section.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let line = line.unwrap_or_else(|| panic!("docs/format.md does not have `{name}`"));
        for column in columns.split(", ") {
            assert!(line.contains(&format!("`{column}`")), "docs/format.md does not have `{name}.{column}`");
        }
    }
}

#[tokio::test]
async fn the_page_says_how_each_table_is_stored() {
    let tables = Tables::new().await;
    let ask = "SELECT relname::text, unnest(reloptions) FROM pg_class
               WHERE relnamespace = 'entity'::regnamespace AND reloptions IS NOT NULL";
    let rows = tables.client.query(ask, &[]).await.unwrap();
    assert!(10 < rows.len(), "{} options", rows.len());
    for row in rows {
        let (name, option) = (row.get::<_, &str>(0), row.get::<_, &str>(1));
        let is_said =
            |line: &str| line.contains(&format!("`{name}`")) && line.contains(&format!("`{option}`"));
        assert!(section("Storage").lines().any(is_said), "docs/format.md does not have {option} of `{name}`");
    }
}

#[tokio::test]
async fn every_view_says_what_it_is_and_for_whom() {
    let tables = Tables::new().await;
    let ask = "SELECT relname::text, coalesce(obj_description(oid, 'pg_class'), '') FROM pg_class
               WHERE relnamespace = 'entity'::regnamespace AND relkind = 'v'";
    let rows = tables.client.query(ask, &[]).await.unwrap();
    assert_eq!(rows.len(), VIEWS.len() + 1);
    for row in rows {
        assert!(row.get::<_, &str>(1).contains("by people"), "{}", row.get::<_, &str>(0));
    }
}

#[tokio::test]
async fn what_the_views_call_may_run_in_any_plan() {
    let tables = Tables::new().await;
    // A function with an EXCEPTION block would fail in a parallel worker of a server before 17.
    let ask = "SELECT proname::text, provolatile = 'i' AND proisstrict AND proparallel = 's', prosrc ILIKE '%exception%' FROM pg_proc
               WHERE pronamespace = 'entity'::regnamespace AND proname <> 'refuse'";
    let rows = tables.client.query(ask, &[]).await.unwrap();
    assert!(10 < rows.len(), "{} functions", rows.len());
    for row in rows {
        assert_eq!(
            (row.get::<_, bool>(1), row.get::<_, bool>(2)),
            (true, false),
            "{}",
            row.get::<_, &str>(0)
        );
    }
}

#[tokio::test]
async fn an_entity_is_found_by_its_key_without_a_scan() {
    let tables = Tables::new().await;
    let ask = "EXPLAIN SELECT * FROM entity.entities WHERE kind = 'account' AND key_bytes = 'alice'";
    tables.client.batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off").await.unwrap();
    let plan = tables.client.query(ask, &[]).await.unwrap();
    let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    let is_found = |line: &&str| line.contains("Index Cond") && line.contains("kind") && line.contains("key");
    assert!(plan.iter().any(is_found), "{plan:#?}");
}
