-- Takes the place of fetch.sql's condition on the queue, where a fetch begins at a place in it.
--
-- The row comparison is where the scan of the index starts. It must be the only condition on the
-- index's first column that could be: were the queue compared for equality as well, the scan would
-- start at the queue's first entry, and read past everything that was fetched before.
e.queue <= CAST(:queue AS text)
      AND (e.queue, -e.priority, e.run_at, e.id) >= (
          CAST(:queue AS text),
          CAST(:after_rank AS smallint),
          CAST(:after_run_at AS timestamptz),
          CAST(:after_id AS uuid)
      )
