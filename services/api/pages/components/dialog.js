// A question before something that cannot be taken back.
import { html, useEffect, useRef } from "../lib/html.js";

export function Confirm({ question, detail, action, onConfirm, onClose }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const answer = (confirmed) => () => {
    onClose();
    if (confirmed) onConfirm();
  };
  return html`
    <dialog ref=${dialog} onClose=${onClose} aria-labelledby="confirm-question">
      <h2 id="confirm-question">${question}</h2>
      <p>${detail}</p>
      <div class="row">
        <button type="button" class="button" onClick=${answer(false)}>Keep it</button>
        <button type="button" class="button button-danger" onClick=${answer(true)}>${action}</button>
      </div>
    </dialog>`;
}
