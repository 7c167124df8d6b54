// Server-sent events that survive a restart of the platform and rest while nobody looks.
// A browser has six connections to a host for all its tabs: a hidden tab gives its own back.

const RETRY_MILLISECONDS = 3000;

// `address()` is asked at every connection, so that a stream goes on after what has been seen.
// Returns a function that ends it.
export function follow(address, { onMessage, onDone = () => {}, onLink = () => {} }) {
  let source = null;
  let timer = 0;
  let ended = false;

  const open = () => {
    if (ended || source || document.hidden) return;
    source = new EventSource(address());
    source.onopen = () => onLink(true);
    source.onmessage = (event) => onMessage(JSON.parse(event.data));
    source.addEventListener("done", (event) => {
      stop();
      onDone(JSON.parse(event.data));
    });
    source.onerror = () => {
      onLink(false);
      close();
      timer = setTimeout(open, RETRY_MILLISECONDS);
    };
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const onVisibility = () => (document.hidden ? close() : open());
  const stop = () => {
    ended = true;
    close();
    document.removeEventListener("visibilitychange", onVisibility);
  };

  document.addEventListener("visibilitychange", onVisibility);
  open();
  return stop;
}
