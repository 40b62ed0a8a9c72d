SELECT CAST(v.version_num AS text) AS head FROM pgconductor.pgconductor_version v ORDER BY 1
