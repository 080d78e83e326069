-- Events are nearly always known after those that authorise them, and so have higher numbers. The few that don't must be
-- found at once: whoever walks an auth chain stops at a number below which nothing can lead to what is looked for.
CREATE INDEX event_auth_backward_idx ON event_auth (event_nid) WHERE event_nid <= ANY (auth_nids);
